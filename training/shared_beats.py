"""Beats that several plots use: how a story opens, what its hero is like, how it ends.

One sentence template (or a short run of sentences) per line; see template.py for the syntax.
"""

BEATS = {
    "open": """
Once there was {a hero.kind} named {hero} who lived {place.in}.
Once upon a time, {place.in}, there lived a [small|curious|cheerful|quiet|merry] {hero.kind} named {hero}.
{hero} was a [young|curious|cheerful|gentle|hopeful|lively] {hero.kind} who lived {place.in}.
In a [small|crooked|snug|round] [house|cottage] {place.in} lived {a hero.kind} named {hero}.
There was once a [young|little|friendly|thoughtful] {hero.kind} called {hero}, and {hero.his} home was {place.in}.
If you had gone walking {place.in} in those days, you might have met {a hero.kind} named {hero}.
Long ago, {place.in}, {a hero.kind} named {hero} had a [snug|tidy|tiny] little house with a [green|blue|round] door.
Everyone who lived {place.in} knew {hero}, a [friendly|cheerful|busy|dreamy] {hero.kind} who [sang at work|waved at everybody|loved a good story].
A long way from here, {place.in}, lived {a hero.kind} whose name was {hero}.
Not so very long ago, a [small|young|shy|cheerful] {hero.kind} called {hero} made a home {place.in}.
The smallest house {place.in} belonged to {hero}, a [young|merry|tidy|sleepy] {hero.kind}.
When the wind blew softly {place.in}, {a hero.kind} named {hero} would [open the window and sing|fly a paper bird|sit on the step and listen].
{place.In} lived {hero}, a [small|young|busy] {hero.kind} with [bright eyes|a loud laugh|a soft voice|big plans|a great many questions].
This is the story of {hero}, {a hero.kind} who lived {place.in}.
""",
    "habit": """
{hero.He} liked [warm bread|rainy mornings|old songs|long walks] and [never hurried|always said good morning|always had time for a chat].
Every morning {hero.he} [swept the doorstep|opened all the windows|watered the herbs] and [hummed a tune|ate a slice of warm bread|drank a cup of mint tea].
{hero.He} was not the bravest {hero.kind} in the world, but {hero.he} had a kind heart.
{hero.He} was known for [asking good questions|whistling in the rain|telling the same three jokes|losing count of the stars].
On most days {hero.he} could be found [drawing maps|mending things|watching the clouds|humming] [outside the front door|in a patch of sun|at the kitchen table].
{hero.He} woke up early, [because mornings smelled of new grass|because the birds told the best news at dawn|because breakfast was the best part of the day].
Nobody {place.in} could [laugh as long|run as fast|sing as loudly|sleep as late] as {hero.he} could.
{hero.He} kept a [jar|box|drawer] of [smooth stones|odd buttons|feathers|short pencils], and each one had a name.
{hero.He} baked [oat cakes|a pie|seed bread] every Saturday, and there was always [a slice|some] left for a guest.
Rain or shine, {hero.he} [took a walk|fetched the water|fed the birds] before breakfast.
{hero.He} could [whistle three tunes at once|guess the weather by its smell|sleep in any chair], or so {hero.he} said.
{hero.He} lived alone, but with so many [books|birds|flowerpots] about, {hero.he} was never lonely.
Between breakfast and lunch {hero.he} liked to [sort the spoons|sit very still and think|write letters to the moon].
{hero} had [one good coat|a squeaky gate|a leaky roof|a round red rug], a warm stove, and [plenty of time|not a worry in the world|room for a guest].
""",
    "moral": """
"[A good friend|A little kindness] is worth more than [gold|a whole chest of treasure|all the stars]," said {hero}, and it was true.
That night {hero} lay in bed and [smiled at the ceiling|listened to the rain|watched the moon], and felt [lucky|happy|very much at home].
And if you ever pass that way, you may still hear [someone|them] [laughing|telling the tale|singing].
{hero} went to bed early that night, and [slept until the sun was high|dreamed only good dreams|did not wake once].
After that, {hero}'s door was always open, and there was always [tea in the pot|soup on the stove|a place at the table].
It had been a long day, but [a good one|it had ended well|the best kind], and {hero} fell asleep [smiling|before the stars came out|with a full heart].
Before bed {hero} [told the moon all about it|wrote it all down], so that it would not be forgotten.
That evening {hero} put a candle in the window, [for anyone who might need it|just because|and the whole house glowed].
The moon rose over the {place}, and [all was well|every window was dark|the owls told one another the news].
And if it has not rained since then, they are [laughing about it|sitting there] still.
""",
    "meet_friend": """
Then along came {friend}, {a friend.kind} with [a basket of plums|muddy boots|a feather behind one ear|flour on both elbows].
On the path {hero} met {a friend.kind} named {friend}.
Just then {a friend.kind} named {friend} [came round the corner|looked over the fence|stopped to listen].
Before long {hero} met {friend}, {a friend.kind} who [was gathering berries|was mending a fence|was out for a stroll|was painting a gate].
It was {friend}, {a friend.kind} with [a green hat|a long scarf|a sack of potatoes], who came by first.
Then the bushes rustled, and out stepped {friend}, {a friend.kind} [with a lantern|eating a pear|whistling a tune].
But help was near. {A friend.kind} named {friend} was coming [down the lane|up the path|over the grass].
""",
}
