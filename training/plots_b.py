"""Plots about deeds: a fear met, a garden grown, a parcel carried, a rescue, a newcomer, a race."""

FEAR = {
    "name": "fear",
    "order": ["open", "habit?", "afraid", "¶", "need", "night", "meet_friend", "confess", "advice",
              "¶", "cross", "arrive", "moral"],
    "beats": {
        "afraid": """
{hero.He} was afraid of only one thing, and that was {fear}.
There was just one trouble: {hero} was afraid of {fear}.
But {hero} had a secret. {hero.He} was terribly afraid of {fear}.
Most things made {hero.him} laugh, but {fear} made {hero.his} knees shake.
""",
        "need": """
One [evening|afternoon|day], word came that {elder}, the {elder.role}, was [ill|all alone|in need of help] on the far side of the {place}.
One [evening|day] {hero} saw that {elder}, the {elder.role}, had left {elder.his} {obj} behind, and somebody had to take it to {elder.him}.
Then one day {elder}, the {elder.role}, sent a note. "Please come," it said. "I need your help."
One [snowy|gray|stormy] evening a light was blinking in the window of {elder}, the {elder.role}. It meant that {elder.he} needed help.
""",
        "night": """
{hero} set out at once, but soon {hero.he} stood still. {hero.He} remembered {fear}, and {hero.his} heart beat fast.
{hero} went as far as the gate and stopped. "I cannot do it," {hero.he} whispered. "I am too afraid."
Halfway there {hero} thought of {fear}, and {hero.his} feet would not move another step.
{hero} took three steps forward and two steps back, and then {hero.he} sat down on a stone.
""",
        "confess": """
"Why have you stopped?" asked {friend}. {hero} looked down. "I am afraid of {fear}," {hero.he} said.
"You look pale," said {friend}. {hero} told {friend.him} everything, even the part about {fear}.
"Are you lost?" asked {friend}. "No," said {hero}. "Only afraid of {fear}."
"Your teeth are chattering," said {friend}. "It is not the cold," said {hero}. "It is {fear}."
""",
        "advice": """
"I was afraid once too," said {friend}. "[Sing as you go|Count your steps|Take one breath and one step], and it will grow smaller."
{friend} did not laugh. "Hold on to my {tool}," {friend.he} said, "and we will go [slowly|together|one step at a time]."
"Being brave does not mean you are not afraid," said {friend}. "It means you go [anyway|all the same]."
"Then I will walk behind you," said {friend}, "and you will hear my steps the whole way."
""",
        "cross": """
So {hero} [took a deep breath|counted to ten|shut one eye] and went on. It was not so bad as {hero.he} had thought.
One step, then another, then another: and all at once the worst of it was over.
{hero.His} legs shook and {hero.his} voice shook too, but {hero.he} kept going until it was done.
{hero} thought about {fear}, and then {hero.he} thought about {elder}, and {hero.he} walked on.
""",
        "arrive": """
When {elder} opened the door, {elder.he} [smiled|laughed for joy|could hardly believe it]. "You came!" {elder.he} said, and [put the kettle on|gave {hero} a big bowl of soup|wrapped {hero} in a warm shawl].
"I knew you would come," said {elder}. {hero} and {friend} stayed for [supper|tea|stories] by the fire.
{elder} was [waiting at the window|sitting by a cold stove]. {hero} lit the fire, {friend} made the tea, and soon all three were laughing.
The lamp in {elder}'s window shone brighter and brighter, and then {hero} was there. "My brave {hero.kind}," said {elder}, and held {hero.his} cold hands.
""",
        "moral": """
From that day on, {hero} knew that [being brave means going on|fear grows small when you walk up to it].
{hero.He} was still a little afraid of {fear} after that, but only a little.
""",
    },
    "requests": """
a story about {a hero.kind} who is afraid of {fear}
a story about {hero}, who was afraid of {fear}
a story about being brave
a story about a brave little {hero.kind}
a story about {a hero.kind} who learns not to be afraid
a story in which {friend} helps {hero} be brave
""",
}

GARDEN = {
    "name": "garden",
    "order": ["open", "habit?", "seed", "plant", "¶", "wait", "doubt", "elder", "advice", "patience",
              "¶", "grow", "share", "moral"],
    "beats": {
        "seed": """
One spring {hero} found a tiny seed {place.spot}.
One spring morning a [bird|breeze|peddler] left a single seed on {hero}'s windowsill.
At the spring fair {hero} won a small brown seed, [no bigger than a crumb|as round as a bead], wrapped in paper.
One day {hero} bought a seed from a peddler, who [winked|bowed] and would not say what it was.
""",
        "plant": """
{hero.He} planted it in {a obj.color} pot and gave it [a cup of water|a drink|a little song].
{hero.He} dug a hole behind the house, dropped the seed in, and patted the earth flat.
"I wonder what you will be," {hero.he} said, and {hero.he} planted it in the sunniest corner of the garden.
{hero.He} filled {a obj.color} {obj} with earth, pushed the seed in with one finger, and set it in the sun.
""",
        "wait": """
The next day {hero} ran out to look. There was nothing but [earth|mud|a yawning worm].
Every morning {hero.he} looked for a green leaf, and every morning there was only [earth|soil].
A week went by. It rained, and the sun shone, and nothing came up at all.
{hero.He} looked at it before breakfast, after breakfast, and twice in the night. It was always the same.
""",
        "doubt": """
"[It will never grow|It must be asleep|Maybe it is only a pebble]," sighed {hero}.
{hero} was so [cross|impatient|unhappy] that {hero.he} nearly dug it up again.
{hero.He} [shouted at it|begged it to hurry|read it a story], but that did not help either.
"Hello in there," said {hero}, and knocked on the ground. Nobody answered.
""",
        "elder": """
{elder}, the {elder.role}, leaned over the fence to see what the matter was.
Over the fence came the voice of {elder}, the {elder.role}. "What are you looking at?" {elder.he} asked.
{hero} went to ask {elder}, the {elder.role}, who had the best garden {place.in}.
""",
        "advice": """
"A seed works in the dark, where nobody can see," said {elder}. "Give it [time|water and time|a little longer]."
"You cannot hurry a garden," said {elder}. "[Water it and wait|Sit down and have some tea|Go and play, and let it be]."
{elder} laughed softly. "It is busy making roots," {elder.he} said. "[The rest comes later|Leaves come last|Wait and see]."
""",
        "patience": """
So {hero} waited. {hero.He} [pulled the weeds|watered the soil|chased off the snails] every day, and {hero.he} did not dig it up.
{hero} tried to be patient. {hero.He} counted [clouds|days|beetles], and {hero.he} kept the soil wet.
From then on {hero} sat beside it each evening and told it about {hero.his} day.
So {hero} found other things to do. {hero.He} [painted the fence|learned a song|mended the gate], and only peeked on Sundays.
""",
        "grow": """
Then one warm morning there was a tiny green shoot! By the end of summer it had become {a plant}.
One day the earth cracked and a leaf peeped out. It grew and grew until it was {a plant}, the [biggest|finest|strangest] anyone had ever seen.
At last something green pushed up into the light. "{A plant}!" cried {hero}, and [ran to tell everyone|danced around it].
And then, when {hero} had almost stopped looking, there it was: {a plant}, as [green|fresh|bright] as could be.
""",
        "share": """
Neighbors came from all over to see it, and {hero} gave [every one of them|each child|everyone] a seed to take home.
{hero} thanked {elder}, and together they [had a picnic beside it|sat and admired it|planted ten seeds more].
{hero} gave the first of what it bore to {elder}, who said it was the best {elder.he} had ever seen.
{hero} and {elder} sat down beside the {plant} with a pot of tea, and neither of them was in any hurry at all.
""",
        "moral": """
From that day on, {hero} knew that [good things take their time|the best things grow slowly].
And whenever {hero} felt impatient, {hero.he} went out and looked at the {plant}.
""",
    },
    "requests": """
a story about {a hero.kind} who plants a seed
a story about {hero} and {a plant}
a story about {a plant}
a story about a garden
a story about being patient
a story about {a hero.kind} with a garden {place.in}
""",
}

DELIVERY = {
    "name": "delivery",
    "order": ["open", "habit?", "errand", "¶", "walk", "obstacle", "meet_friend", "plan", "over", "¶",
              "arrive", "glad", "moral"],
    "beats": {
        "errand": """
One [morning|day] {elder}, the {elder.role}, gave {hero} {a obj.color} {obj}. "Please take it to my sister, who lives {place2.in}," {elder.he} said.
{elder}, the {elder.role}, needed someone to carry {a obj.color} {obj} to a customer who lived {place2.in}. "I will go," said {hero}.
"Who will take this {obj.color} {obj} to my cousin, who lives {place2.in}?" asked {elder}, the {elder.role}. {hero} stepped forward at once.
One [cold|sunny] morning {elder}, the {elder.role}, came to the door with {a obj.color} {obj}. "It must go to my brother, who lives {place2.in}," {elder.he} said, "and I am too old to walk."
""",
        "walk": """
{hero} packed the {obj} in a bag and set off [at sunrise|after breakfast|with a song].
It was a long way to the {place2}. {hero} walked all [morning|day], and the bag on {hero.his} back grew heavy.
With the {obj} safe in {hero.his} bag, {hero} left the {place} and followed the winding road.
Over the hills and past the fields went {hero}, and at every crossroads {hero.he} [checked the map|patted the bag|had a bite of bread].
""",
        "obstacle": """
But the rain had washed the bridge away, and the stream was [wide|cold|fast] and brown.
Then the road came to a high wall with no gate, and there was no way around it.
Before long a fallen tree lay right across the path, too [tall to climb|wide to crawl under].
But a deep ditch full of water lay across the road, and {hero} could not jump so far.
""",
        "plan": """
"I need to get to the {place2}," said {hero}. "Then you need my {tool}," said {friend}.
{hero} explained about the {obj} and the {place2}. "[Wait here|Just a moment|I have an idea]," said {friend}, who soon came back with a {tool}.
"Nobody gets past here alone," said {friend}, "but two can do it, with this {tool}."
"You will never get past on your own," said {friend}. "But I have a {tool}, and you have me."
""",
        "over": """
They [pulled|pushed|tried] and slipped and tried again, and with the help of the {tool} {hero} was soon on the other side.
It took [three tries|a good deal of puffing|the whole afternoon], but thanks to the {tool} they both got across.
{friend} held the {tool} steady while {hero} went over, and the {obj} did not get so much as a [drop|speck] on it.
It was slow work and wet work, and once the {tool} nearly slipped. But they held on, and they made it.
""",
        "arrive": """
That evening {hero} came to the {place2} and knocked at the right door.
When {hero} reached the {place2}, [the lamps were being lit|the stars were out|supper was on the table].
By [sunset|nightfall] they could see the {place2}, and {hero} gave the {obj} a quick polish.
""",
        "glad": """
"The {obj.color} {obj}!" said a voice when the door opened. "I have waited for it [all week|so long]. Come in, come in."
The {obj} was unwrapped and passed from hand to hand, and everyone said how [well|bravely] {hero} had done.
{hero} handed over the {obj}, and was given [hot soup|a soft bed|apple cake] and a letter of thanks for {elder}.
""",
        "moral": """
From that day on, {hero} knew that [the longest road is short with a friend|a promise is lighter when two carry it].
And on the way home to the {place}, {hero} and {friend} [sang every song they knew|shared a bag of cherries].
""",
    },
    "requests": """
a story about {a hero.kind} who goes on a journey
a story about {hero}, who has to bring {a obj} to the {place2}
a story about {a hero.kind} who delivers {a obj.color} {obj}
a story about a long walk to the {place2}
a story about {a hero.kind} who travels from the {place} to the {place2}
a story about {hero}, {friend} and a {tool}
""",
}

RESCUE = {
    "name": "rescue",
    "order": ["open", "habit?", "storm", "¶", "cry", "stuck", "think", "tool", "pull", "¶", "safe",
              "after", "moral"],
    "beats": {
        "storm": """
One [autumn|winter|summer] night a great storm came. It rattled the shutters and [shook the doors|howled in the chimney].
One afternoon the sky grew dark, and the wind began to roar over the {place}.
It had rained for [three days|a week], and the water was rising everywhere.
The day began with sun and ended with thunder. By dusk the lanes were full of water.
""",
        "cry": """
Through the wind {hero} heard a voice. "Help!" it cried. "[Is anyone there|Can anybody hear me]?"
{hero} was [shutting the windows|putting out the lamp|warming some milk] when somebody called for help.
When {hero} looked outside, {hero.he} saw something move in the rain.
{hero} sat by the fire and listened to the wind. But was that only the wind? No, somebody was calling.
""",
        "stuck": """
It was {a friend.kind} named {friend}, stuck {trap}, and the water was climbing fast.
There, {trap}, sat {a friend.kind} named {friend}, [wet and shivering|with a hurt foot|too frightened to move].
{hero.He} ran toward the sound and found {a friend.kind} named {friend}, who was trapped {trap}.
Out in the storm was {friend}, {a friend.kind} who had gone to look for firewood and was now stuck {trap}.
""",
        "think": """
"Hold on, {friend}!" called {hero}. {hero.He} was not very strong, but {hero.he} could think.
"I am too small to do this alone," thought {hero}, "but I am not too small to [try|find a way]."
{hero} looked left and right. There was nobody else to help, so it was up to {hero.him}.
""",
        "tool": """
Then {hero.he} remembered the {tool} [in the shed|behind the house|that hung on the wall], and {hero.he} ran to fetch it.
{hero} raced home and came back with a {tool}.
{hero.He} knew that {elder}, the {elder.role}, owned a {tool}, and {hero.he} ran to borrow it.
""",
        "pull": """
{hero.He} held out the {tool} as far as {hero.he} could. "Take hold!" {hero.he} shouted, and {friend} did.
With the {tool} and all {hero.his} strength, {hero} [tugged|worked] until {friend} was free.
Slowly, slowly, {friend} crawled along the {tool}, while {hero} [held it tight|did not let go|told {friend.him} not to look down].
"On three!" called {hero}. "One, two, three!" {friend} held on to the {tool} and jumped, and landed in the mud, safe and sound.
""",
        "safe": """
When it was over they sat by the stove with [mugs of hot milk|bowls of soup|their feet in warm water], and the storm could not reach them.
They ran home through the rain, and {hero} gave {friend} [a dry blanket|the softest chair|the last piece of pie].
"You saved me," said {friend}. "[You would do the same|Anyone would have come]," said {hero}, and put more wood on the fire.
{hero} made a bed by the stove, and {friend} slept until the storm had blown itself away.
""",
        "after": """
In the morning the sky was clear, and {friend} helped {hero} [mend the roof|sweep up the leaves|hang everything out to dry].
The next day everyone had heard of it, and {friend} told the tale [again and again|to anyone who would listen].
The next week {friend} came back with {a obj.color} {obj}. "For you," {friend.he} said, "because you did not leave me there."
""",
        "moral": """
From that day on, {hero} knew that [nobody is too small to help|a clear head is stronger than a strong arm].
And the {tool} was given a place of honor above the door.
""",
    },
    "requests": """
a story about a storm
a story about {a hero.kind} who saves {a friend.kind}
a story about {hero}, who rescues {friend}
a story about {a hero.kind} and a {tool}
a story about a rescue {place.in}
a story about {a hero.kind} and {a friend.kind} in a storm
""",
}

NEWCOMER = {
    "name": "newcomer",
    "order": ["open", "habit?", "arrival", "¶", "shy", "others", "hero_sees", "invite", "play", "¶",
              "gift", "end", "moral"],
    "beats": {
        "arrival": """
One day a new neighbor came: {a friend.kind} named {friend}, who had traveled all the way from the {place2}.
In the first week of [spring|autumn|summer], {a friend.kind} named {friend} moved into the empty house next door.
One [rainy|warm|windy] day a cart rolled up, and out stepped {friend}, {a friend.kind} with one small suitcase.
The house across the lane had been empty for years, until {friend} moved in, {a friend.kind} with [eleven boxes|a birdcage and no bird|a very quiet voice].
""",
        "shy": """
{friend} was shy and did not know anybody. {friend.He} sat [by the window|on the step|under a tree] and watched the others play.
{friend} wanted to say hello, but each time {friend.he} tried, the words [got stuck|hid away|came out too quietly].
For three days {friend} spoke to no one, and the curtains of the little house stayed shut.
""",
        "others": """
"{friend} must be [proud|unfriendly|very grumpy]," said the neighbors, and they went on with their games.
The others played {game} and [forgot to ask {friend}|did not look up|made a great deal of noise].
Nobody was unkind, but nobody [knocked|said hello|asked {friend} to play] either.
Everyone was busy with {game}, and it was easy not to see {friend} at all.
""",
        "hero_sees": """
But {hero} remembered what it was like to be [new|lonely|the last one picked].
But {hero} saw that {friend} looked [sad|lonely], and {hero.he} had an idea.
{hero} thought about it all night, and in the morning {hero.he} knew what to do.
"It is hard to be new," {hero} said, and {hero.he} put on {hero.his} coat.
""",
        "invite": """
{hero.He} took {hero.his} {obj.color} {obj} and knocked on {friend}'s door. "Would you like to [see it|try it|come outside]?" {hero.he} asked.
{hero} carried {a obj.color} {obj} over to {friend}. "I need somebody to help me with this," {hero.he} said.
"I am {hero}," {hero.he} said at {friend}'s door, "and this is my {obj.color} {obj}. Do you want to share it?"
""",
        "play": """
{friend} looked at the {obj}, and then, very slowly, {friend.he} smiled. They [laughed|talked and played] until the sun went down.
It turned out that {friend} knew [a hundred riddles|all the names of the stars|how to walk on stilts], and {hero} wanted to learn.
"I would like that very much," said {friend}. Soon the two of them were playing with the {obj} as if they had always been friends.
{friend} held the {obj} very carefully. "Nobody has ever asked me before," {friend.he} said, and then {friend.he} began to laugh.
""",
        "gift": """
The next day {friend} taught everyone a new way to play {game}.
Soon the others came to look, and {friend} showed them all how to [fold paper birds|juggle|make a whistle out of grass].
Before the week was out, {friend} had [a friend at every door|more friends than chairs|been asked to supper five times].
""",
        "end": """
"Thank you for knocking," said {friend} to {hero}. "It was the best sound I ever heard."
But {hero} was always {friend}'s first and best friend.
And when {friend} was asked where home was, {friend.he} said, "Here, {place.in}, next door to {hero}."
Years later they were friends still, and the {obj} stood on the shelf to remind them how it began.
""",
        "moral": """
From that day on, {hero} knew that [a kind word can open any door|a stranger is a friend you have not met].
And nobody {place.in} was ever left out of {game} again.
""",
    },
    "requests": """
a story about a new neighbor
a story about {a friend.kind} who is shy
a story about {hero}, who makes a new friend
a story about {a hero.kind} who is kind to {a friend.kind}
a story about making friends
a story about {hero}, {friend} and {a obj.color} {obj}
""",
}

RACE = {
    "name": "race",
    "order": ["open", "habit?", "news", "¶", "rival", "start", "elder", "choose", "last", "¶",
              "prize", "rival_end", "moral"],
    "beats": {
        "news": """
Every [spring|summer|autumn] there was a race to the {place2}, and the prize was {a obj.color} {obj}.
One [day|morning] a poster said: "Great race to the {place2}! First prize: {a obj.color} {obj}!" {hero} put down {hero.his} name at once.
{hero} had dreamed of winning the race to the {place2}, because the winner was given {a obj.color} {obj}.
Everyone {place.in} was talking of the great race to the {place2}. There was {a obj.color} {obj} for the winner, and {hero} wanted it badly.
""",
        "rival": """
The fastest runner of all was {friend}, {a friend.kind} who had [never lost|won twice before|very strong legs].
"You will only see my dust," said {friend}, {a friend.kind} who had won the year before.
Next to {hero} stood {friend}, {a friend.kind} who [yawned|stretched|smiled politely] and looked sure to win.
Everybody said that {friend}, {a friend.kind} who trained every day, was going to win.
""",
        "start": """
A [bell rang|whistle blew|flag dropped], and they were off! {hero} ran [as hard as {hero.he} could|like the wind], and soon {hero.he} was [second|near the front].
"Ready, steady, go!" Away they went, and {hero} ran better than {hero.he} had ever run before.
The race began. {friend} shot ahead, but {hero} was close behind {friend.him}.
At noon the runners lined up. Somebody shouted "Go!" and {hero} flew off like an arrow, with {friend} just ahead.
""",
        "elder": """
Halfway there {hero} saw {elder}, the {elder.role}, whose cart had [lost a wheel|tipped over|stuck in the mud].
Beside the road sat {elder}, the {elder.role}, who had [twisted {elder.his} ankle|dropped a whole basket of eggs|fallen down].
Then {hero} heard a cry. It was {elder}, the {elder.role}, whose [hens|apples|papers] had gone all over the road.
""",
        "choose": """
The other runners rushed by. {hero} looked at the road ahead, and then {hero.he} [stopped|turned back] to help.
"Go on," said {elder}, "or you will lose." But {hero} shook {hero.his} head. "[There will be other races|Some things are more important]," {hero.he} said.
{hero} wanted to win very much. But {hero.he} could not leave {elder} there, so {hero.he} stopped.
""",
        "last": """
By the time they were done, the race was [over|long over], and {hero} came in last of all.
When {hero} reached the {place2} at last, {friend} had already won, and the crowd was going home.
{hero} walked the rest of the way with {elder}, slowly, and the {place2} was quiet when they came.
Together they set everything right. Then {hero} ran on, but the finish line at the {place2} had already been rolled up.
""",
        "prize": """
But {elder} told everyone what had happened, and they [cheered for {hero} until they were hoarse|lifted {hero} up and cheered].
Then {elder} [climbed on a chair|clapped {elder.his} hands] and said, "The fastest is not always the best," and everybody clapped for {hero}.
"{hero} lost the race for my sake," {elder} said to the crowd, and there was a great cheer.
That evening {elder} told the whole story, and one by one everybody stood up to clap for {hero}.
""",
        "rival_end": """
{friend} stepped forward and held out the {obj.color} {obj}. "This should be yours," {friend.he} said.
"I ran right past," said {friend} quietly, "and I am sorry." Then {friend.he} put the {obj} in front of {hero}. "Let us share it."
{friend} shook {hero}'s hand. "Next year," {friend.he} said, "let us run side by side." And {friend.he} let {hero} carry the {obj} home.
""",
        "moral": """
From that day on, {hero} knew that [there is more than one way to win|stopping to help is never losing].
And {elder} told the story of that race every year, and every year {hero} blushed.
""",
    },
    "requests": """
a story about a race
a story about {a hero.kind} who wants to win a race
a story about {hero} and {friend} in a race
a story about {a hero.kind} who stops to help
a story about a race to the {place2}
a story about {hero} and the {elder.role}
""",
}

PLOTS = [FEAR, GARDEN, DELIVERY, RESCUE, NEWCOMER, RACE]
