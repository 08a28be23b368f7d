"""Plots about things: one lost, one found, one made, one shared, one carried to somebody."""

LOST = {
    "name": "lost",
    "order": ["open", "habit?", "own", "¶", "loss", "search", "meet_friend", "ask", "offer", "¶",
              "find", "thanks", "moral"],
    "beats": {
        "own": """
{hero}'s favorite thing was {a obj.color} {obj}, and {hero.he} took it everywhere.
{hero.He} had {a obj.color} {obj} that {hero.he} loved more than anything.
Of all the things {hero.he} owned, {hero.he} loved {a obj.color} {obj} best.
On {hero.his} last birthday {hero} had been given {a obj.color} {obj}, and {hero.he} was very proud of it.
On a shelf by the window {hero.he} kept {a obj.color} {obj} that had once belonged to [{hero.his} grandmother|{hero.his} grandfather|an old sailor].
{hero} had saved for a whole year to buy {a obj.color} {obj}, and not a day went by without it.
""",
        "loss": """
One [windy|rainy|bright|foggy] [morning|afternoon], the {obj} was gone.
One day {hero} looked for the {obj}, but it was not there.
But one [evening|morning|day] {hero} reached for the {obj} and found only [dust|an empty shelf|a bit of string].
Then, on a [cold|windy|busy] [Monday|Tuesday|Friday], {hero} came home and saw that {hero.he} had lost the {obj}.
One [morning|evening], after a long walk, {hero} noticed that the {obj} was missing.
""",
        "search": """
{hero.He} looked [under the bed|behind the door|in every drawer] and [in every pocket|inside the kettle|under the rug], but there was no {obj} anywhere.
{hero.He} searched the whole house twice and found [only a spider|three lost socks|a very old biscuit].
{hero.He} turned the house upside down, and still there was no {obj}.
{hero.He} sat down on the step and tried hard not to cry.
"Where can it be?" {hero.he} said, and {hero.he} went out to look [along the path|up and down the lane|everywhere].
""",
        "ask": """
"[Why do you look so sad|What is the matter|What are you looking for], {hero}?" asked {friend}. "I have lost my {obj.color} {obj}," said {hero}.
"Have you seen {a obj.color} {obj}?" asked {hero}. {friend} thought [for a while|hard|about it].
"My {obj.color} {obj} is lost," {hero} said [in a small voice|with a sigh|sadly], "and I have looked everywhere." {friend} nodded slowly.
{hero} told {friend} all about the {obj.color} {obj}, and {friend} listened to every word.
""",
        "offer": """
"Four eyes see more than two," said {friend}. "[Let us|We can|We should] look together."
"When did you last have it?" asked {friend}. {hero} thought [back|again]. "Yesterday," {hero.he} said slowly, "when I stopped to rest."
"Do not worry," said {friend}. "Lost things [like to be found|are always somewhere|never go far]."
"Then let us walk back the way you came," said {friend}, and off they went, side by side.
"I know a good place to look," said {friend}. "[Come with me|Follow me|It is not far]."
""",
        "find": """
They looked [here and there|high and low|for an hour], and at last they found the {obj} {place.spot}.
And there, {place.spot}, lay the {obj.color} {obj}, [safe and dry|not even scratched|only a little dusty].
Soon {friend} stopped and pointed. There was the {obj}, {place.spot}.
They walked slowly and looked at everything, until {hero} saw something {obj.color} {place.spot}. It was the {obj}!
"Look!" cried {friend}. {place.spot.Cap}, the {obj.color} {obj} was waiting for them.
""",
        "thanks": """
{hero} [laughed out loud|danced in a circle|clapped and cheered] and hugged {friend} [tightly|twice]. "Thank you!" {hero.he} said.
"I would never have found it alone," said {hero}, and {hero.he} invited {friend} home for [soup|pancakes|plum cake].
"Thank you, {friend}," said {hero}. "You are a true friend." {friend} only smiled.
{hero} held the {obj} close all the way home, and {friend} sang a song about it.
{hero} was so glad that {hero.he} let {friend} hold the {obj} all the way home.
""",
        "moral": """
From that day on, {hero} knew that [a trouble shared is a trouble halved|help is often closer than it seems].
And {hero} never [let go of the {obj} on a windy day|left the {obj} behind] again.
The {obj} went back to its place that night, and {hero} said good night to it twice.
""",
    },
    "requests": """
a story about {a hero.kind} who lost {a obj}
a story about {a hero.kind} who loses {a obj.color} {obj}
a story about {hero} and a lost {obj}
a story in which {hero} loses something
a story about a lost {obj}
a story about {a hero.kind} and {a friend.kind} who look for {a obj}
a story about {hero} and {friend} looking for {a obj.color} {obj} {place.in}
""",
}

FOUND = {
    "name": "found",
    "order": ["open", "habit?", "¶", "discover", "wonder", "elder", "clue", "¶", "owner", "give",
              "reward", "moral"],
    "beats": {
        "discover": """
One [morning|afternoon|day], while out walking, {hero} found {a obj.color} {obj} {place.spot}.
One [misty|sunny|quiet] morning {hero} saw something shining {place.spot}. It was {a obj.color} {obj}.
One day {hero} nearly tripped over {a obj.color} {obj} that was lying {place.spot}.
After a night of [wind|rain|storms], {hero} went outside and discovered {a obj.color} {obj} {place.spot}.
""",
        "wonder": """
"[What a lovely thing|How pretty it is|What a fine {obj}]," said {hero}, "but it is not mine. [Somebody must miss it|Who could have lost it|I wonder whose it is]."
{hero.He} wanted very much to keep it. But {hero.he} thought, "Somebody [somewhere|nearby] must be sad without this {obj}."
{hero} turned the {obj} over and over. There was no name on it [at all|anywhere], only [a tiny star|a small scratch|a painted leaf].
"Finders are not always keepers," {hero} told {hero.him}self, and {hero.he} set out to find the owner.
""",
        "elder": """
First {hero.he} asked {elder}, the {elder.role}.
{hero.He} took it to {elder}, the {elder.role}, who knew [everybody|nearly everything|all the news].
So {hero.he} knocked at the door of {elder}, the {elder.role}, and held up the {obj}.
On the road {hero.he} met {elder}, the {elder.role}, and showed {elder.him} the {obj}.
""",
        "clue": """
"It is not mine," said {elder}, "but I have seen {a friend.kind} named {friend} [looking for something|searching the lane|looking very sad] all day."
{elder} [looked at it closely|put on {elder.his} glasses|held it up to the light]. "I believe this belongs to {a friend.kind} named {friend}," {elder.he} said.
"Ah," said {elder}. "{A friend.kind} named {friend} came by this morning, asking for {a obj} just like this one."
{elder} shook {elder.his} head. "Not mine. But try {friend}, {a friend.kind} who lives [at the end of the lane|behind the tall hedge|in the house with two chimneys]."
""",
        "owner": """
{hero} [ran|hurried|walked] to {friend}'s house and knocked. When {friend} saw the {obj}, {friend.his} eyes grew wide.
{hero} found {friend} sitting on a step, looking [gloomy|lonely|tired]. Then {friend} saw the {obj} and jumped up.
{hero} thanked {elder} and went straight to {friend}, who was [peering under a bush|emptying a barrel|crying a little] when {hero} arrived.
It was nearly evening when {hero} reached {friend}'s house. The door flew open, and {friend} stared at the {obj}.
""",
        "give": """
"My {obj}!" cried {friend}. "I thought it was gone forever."
"Is this yours?" asked {hero}. "It is!" said {friend}. "[I dropped it in the storm|It fell out of my bag|I have looked for it for three days]."
"I think this is yours," said {hero}, and {hero.he} held out the {obj.color} {obj}. {friend} could hardly speak for joy.
"Did you lose something?" asked {hero}. {friend} nodded, and {hero} laid the {obj} gently on the table.
""",
        "reward": """
{friend} had no gold to give, but {friend.he} gave {hero} [a warm bun|a jar of jam|a handful of cherries], and [they ate it together|they became good friends|that was just as good].
"How can I thank you?" asked {friend}. "[Come and play tomorrow|Tell me about it|Show me how it is used]," said {hero}, and so {friend} did.
From then on {friend} and {hero} met every [day|Sunday|week], and the {obj} belonged a little to both of them.
{friend} hugged {hero} and would not let go for [quite a while|a long time]. It was better than keeping any {obj}.
""",
        "moral": """
From that day on, {hero} knew that [an honest heart finds honest friends|giving back can be better than keeping].
And {hero} never once [was sorry|wished] that {hero.he} had [given the {obj} back|done otherwise], or so {hero.he} said.
""",
    },
    "requests": """
a story about {a hero.kind} who finds {a obj}
a story about {hero}, who finds {a obj.color} {obj}
a story about {a hero.kind} who found {a obj} {place.in}
a story about an honest {hero.kind}
a story about {hero}, {friend} and {a obj}
a story with {elder} the {elder.role} and {a obj}
""",
}

GIFT = {
    "name": "gift",
    "order": ["open", "habit?", "occasion", "¶", "missing", "go", "trade", "work", "¶", "make",
              "present", "moral"],
    "beats": {
        "occasion": """
{hero} had a friend, {a friend.kind} named {friend}, and tomorrow was {friend}'s birthday.
{hero.His} best friend was {a friend.kind} named {friend}, who had been [ill in bed|sad and lonely|working too hard] all week.
One [winter|spring|summer|autumn] day a letter came from {friend}, {a friend.kind} and a dear old friend, who was coming to visit {hero}.
Next door lived {friend}, {a friend.kind} who had [helped {hero} mend the roof|lent {hero} a warm coat|shared a last apple with {hero}], and {hero} wanted to say thank you.
""",
        "missing": """
"I will make {a gift} for {friend}," {hero} decided. But when {hero.he} opened the cupboard, there was no {part}.
{hero} wanted to make {a gift}. {hero.He} had nearly everything, but [not one bit of|there was no] {part} [in the house|to be found] for it.
"{A gift} would make {friend} happy," thought {hero}. There was only one trouble: {hero.he} had no {part}.
All morning {hero} worked on {a gift} for {friend}, and then the {part} ran out.
""",
        "go": """
So {hero.he} went to see {elder}, the {elder.role}, who had plenty of {part}.
{hero.He} put on {hero.his} boots and walked to the house of {elder}, the {elder.role}. "Could you spare some {part}?" {hero.he} asked.
{elder}, the {elder.role}, had a whole shelf full of {part}, so {hero.he} went there and asked politely for a little.
Down the road lived {elder}, the {elder.role}. {hero} knocked three times and asked for some {part}.
""",
        "trade": """
"Gladly," said {elder}, "if you will [sweep my floor|stack my firewood|feed my hens|carry my water] first."
"I will give you some," said {elder}, "but my back is sore. Will you [sweep the yard|fetch the water|stack the firewood|pick the beans] for me?"
{elder} scratched {elder.his} chin. "Help me for one hour," {elder.he} said, "and you may have all you need."
"Nothing is free on a busy day," said {elder} with a [wink|smile], "but a helper can earn anything."
""",
        "work": """
{hero} worked [hard|until the sun was low|without one complaint], and {elder} gave {hero.him} more {part} than {hero.he} had asked for.
It was not easy work, but {hero} [sang as {hero.he} worked|did not stop to rest|did it well]. In the end {elder} handed {hero.him} the {part} and patted {hero.his} head.
{hero} rolled up {hero.his} sleeves and began at once. When all was done, {elder} filled a bag with {part} and said, "You have earned it."
So {hero} set to work, and did twice as much as anyone had asked. {elder} was so pleased that {elder.he} gave {hero.him} the {part} and [a ginger biscuit|a ripe pear|a pat on the back] too.
""",
        "make": """
{hero} ran home and finished the {gift} just [as the moon came up|before supper|in time].
All evening {hero} worked by candlelight, and at last the {gift} was done.
Back home, {hero.he} set to work, and by [morning|bedtime|dawn] the {gift} was ready.
It took all {hero.his} care, but when the {gift} was finished it was as fine as could be.
""",
        "present": """
When {friend} saw the {gift}, {friend.he} [laughed with joy|could not stop smiling|clapped and cheered]. "Nobody ever made me {a gift} before," {friend.he} said.
"For me?" asked {friend}. "For you," said {hero}, and {friend} hugged {hero.him} so hard that {hero.his} hat fell off.
{friend} looked at the {gift} for a long time. "It is the best gift I have ever had," {friend.he} said, "because you made it."
"{A gift}!" cried {friend}. "How did you know?" {hero} only grinned.
""",
        "moral": """
From that day on, {hero} knew that [the best gifts are made, not bought|a gift grows when you work for it].
And {hero} thought that giving was even nicer than getting.
""",
    },
    "requests": """
a story about {a hero.kind} who makes {a gift}
a story about {a gift}
a story about {hero}, who makes a present for {friend}
a story about a birthday present
a story about {a hero.kind} who makes something for {a friend.kind}
a story about {hero} and {elder} the {elder.role}
""",
}

QUARREL = {
    "name": "quarrel",
    "order": ["open", "habit?", "neighbor", "¶", "spot", "mine", "part", "alone", "¶", "turn",
              "share", "moral"],
    "beats": {
        "neighbor": """
{hero.His} best friend was {friend}, {a friend.kind} from next door, and they did everything together.
{hero} had a friend named {friend}, {a friend.kind} who [could keep any secret|knew every path|was always hungry], and the two met every day.
Every day {hero} played {game} with {friend}, {a friend.kind} who lived [close by|across the path|two doors away].
On one side of the fence lived {hero}, and on the other lived {friend}, {a friend.kind} and the best friend anyone could want.
""",
        "spot": """
One day the two friends found {a obj.color} {obj} {place.spot}.
One [sunny|breezy|cloudy] morning they both saw {a obj.color} {obj} at the same moment. It lay {place.spot}.
Then, on the first day of [spring|summer|autumn], they discovered {a obj.color} {obj} {place.spot}.
While they were out playing {game}, something {obj.color} caught their eyes. {place.spot.Cap} lay {a obj}.
""",
        "mine": """
"I saw it first!" said {hero}. "No, I did!" said {friend}. Neither of them would let go of the {obj}.
"It is mine," said {hero}. "It is mine," said {friend}. They pulled and they pulled, and the {obj} [fell with a bump|flew out of their grip|landed in the mud].
{hero} wanted to keep the {obj}, and so did {friend}. They argued until [the birds flew away|their voices were hoarse|it was nearly dark].
"I need it more," said {hero}. "I asked first," said {friend}. Soon they were both shouting, and neither of them was listening.
""",
        "part": """
"Then I will not play with you anymore," said {friend}, and {friend.he} went home [without looking back|with a frown].
In the end {hero} took the {obj} home, and {friend} [stamped off down the path|slammed {friend.his} door|walked away without a word].
"Keep it, then," said {friend}, and {friend.he} walked off [all alone|with {friend.his} chin in the air].
They stopped talking. {hero} carried the {obj} home, and {friend} kicked a stone all the way to {friend.his} gate.
""",
        "alone": """
But the {obj} was no fun alone. {hero} looked at it [on the table|for a whole hour], and it only made {hero.him} feel [lonely|sorry|empty].
That evening {hero} had the {obj} all to {hero.him}self, and nobody to show it to.
{hero} could not sleep. The {obj} was [very fine|very pretty|shiny and new], but it could not laugh at jokes the way {friend} did.
At first {hero} was glad to have the {obj}. But supper was too quiet, and the evening was too long.
""",
        "turn": """
In the morning {hero} carried the {obj} to {friend}'s door. "I am sorry," {hero.he} said. "I would rather have a friend than {a obj}."
So {hero} knocked at {friend}'s door and held out the {obj}. "You take it," {hero.he} said. "I was unkind."
At dawn {hero} set out for {friend}'s house, and halfway there {hero.he} met {friend}, who was coming to say sorry too.
All at once {hero} knew what to do. {hero.He} wrapped the {obj} in paper, left it on {friend}'s step, and knocked.
""",
        "share": """
"Let us share it," said {friend}. "[You one day, and I the next|We can keep it in the middle|It can live at both our houses]." And so they did.
{friend} [smiled|laughed] at last. "I am sorry too," {friend.he} said. They spent the whole day together, and the {obj} was twice as much fun.
They shook on it: the {obj} would belong to both of them. Then they played {game} until supper.
{friend} laughed so hard that {hero} had to laugh too, and after that neither of them could remember why they had quarreled.
""",
        "moral": """
From that day on, they knew that [a thing shared is a joy doubled|no treasure is worth a friend].
They never quarreled about the {obj} again, and only [sometimes|once or twice] about who should wash the dishes.
""",
    },
    "requests": """
a story about two friends who quarrel
a story about {hero} and {friend}, who both want {a obj}
a story about sharing {a obj}
a story about {a hero.kind} and {a friend.kind} who learn to share
a story about saying sorry
a story with {hero}, {friend} and {a obj.color} {obj} {place.in}
""",
}

PLOTS = [LOST, FOUND, GIFT, QUARREL]
