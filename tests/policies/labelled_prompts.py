"""Prompts with what they are, written for these tests: task, complexity, language, text."""

from __future__ import annotations

PROMPTS = """\
chat simple en Hi there!
chat simple en Thanks, that helped a lot.
chat simple en What is the capital of Australia?
chat simple en Can you recommend a good Italian restaurant near Central Park?
chat simple en What time is it in Tokyo right now?
chat simple en Who wrote Pride and Prejudice?
chat simple de Hallo, wie geht es dir heute?
chat simple de Was ist die Hauptstadt von Kanada?
chat simple fr Bonjour, comment vas-tu ?
chat simple fr Quelle est la capitale du Portugal ?
chat simple es Hola, ¿qué tal estás?
chat simple es ¿Cuál es la capital de Noruega?
chat simple it Ciao, come stai?
chat simple pt Olá, tudo bem com você?
chat simple ru Привет! Как дела?
chat simple zh 你好，今天天气怎么样？
chat simple ja こんにちは。元気ですか？
chat simple ko 안녕하세요, 오늘 기분이 어때요?
coding simple en Write a Python function that checks whether a string is a palindrome.
coding simple en How do I reverse a list in JavaScript?
coding medium en Why does this throw a NullPointerException? `String s = null; s.length();`
coding medium en Fix the bug: def add(a, b): return a - b
coding medium en Write a SQL query that returns the top five customers by revenue per month.
coding simple en Give me a regex that matches ISO dates.
coding complex en Refactor this service into microservices with an event bus, ensure idempotent consumers, and justify each design trade-off.
coding very_complex en Design a distributed key-value store in Rust with Raft consensus, linearizable reads, concurrent compaction and crash recovery. Prove that the log matching invariant holds, then implement the storage layer and include property tests.
coding simple de Schreibe eine Python-Funktion, die Primzahlen bis n berechnet.
coding medium de Mein Docker-Container startet nicht, was bedeutet exit code 137?
coding simple fr Écris une fonction JavaScript qui trie un tableau d'objets par date.
coding simple es Escribe un script de bash que borre archivos de más de 30 días.
coding simple it Scrivi una funzione in Python che legga un file CSV.
coding simple pt Escreva uma função em Java que inverta uma string.
coding simple ru Напиши функцию на Python, которая считает слова в файле.
coding simple zh 用Python写一个函数，判断一个数是否为质数。
coding simple ja Pythonでフィボナッチ数列を返す関数を書いてください。
coding simple ko 파이썬으로 이진 탐색 함수를 작성해 주세요. 코드만 주세요.
coding medium nl Schrijf een unit test voor deze functie: function add(a, b) { return a + b; }
coding medium pl Napisz zapytanie SQL, które zwraca duplikaty w tabeli users.
reasoning simple en What is 17 * 23?
reasoning simple en What is 2+2?
reasoning medium en Explain quantum computing.
reasoning medium en Explain quantum entanglement and its implications for cryptography.
reasoning medium en If a train leaves at 9:40 and travels 210 km at 70 km/h, when does it arrive? Explain your reasoning.
reasoning medium en Solve for x: 3x^2 - 12x + 9 = 0
reasoning complex en Prove that there are infinitely many primes of the form 4k+3.
reasoning complex en Compare the causes of the French and the Russian revolution, analyse their consequences for the economy, and critically evaluate two theories that explain both.
reasoning very_complex en Derive the asymptotic distribution of the maximum likelihood estimator under misspecification, prove consistency rigorously, discuss implications for causal inference, and compare it with the Bayesian posterior.
reasoning medium en Why is the sky blue and the sunset red?
reasoning medium de Erkläre mir, wie ein Kernreaktor funktioniert.
reasoning complex de Beweise, dass die Wurzel aus 2 irrational ist.
reasoning medium fr Explique la théorie de la relativité restreinte.
reasoning medium es Explica por qué el hielo flota en el agua.
reasoning medium es Resuelve la ecuación 2x + 5 = 17 paso a paso.
reasoning medium it Spiega la differenza tra correlazione e causalità.
reasoning medium pt Explique como funciona a inflação.
reasoning medium ru Объясни, почему самолёты летают.
reasoning medium zh 解释一下光合作用的原理。
reasoning medium ja 相対性理論をわかりやすく説明してください。
reasoning medium ko 양자역학을 쉽게 설명해 주세요.
reasoning medium nl Leg uit hoe vaccins werken.
reasoning medium pl Wyjaśnij, dlaczego niebo jest niebieskie.
extraction simple en Extract all email addresses from the following text: contact bob@example.com or eve@example.org.
extraction simple en Classify the sentiment of this review as positive, negative or neutral: "The battery died after a week."
extraction simple en List every date and amount in this invoice and return them as JSON.
extraction simple en Pull the company names out of this article.
extraction simple de Extrahiere alle Rechnungsnummern aus dem folgenden Text.
extraction simple fr Extrais les noms et les adresses de ce contrat.
extraction simple es Extrae los nombres de las personas de este texto.
extraction simple it Estrai le date da questo documento.
extraction simple pt Extraia os valores desta fatura.
extraction simple ru Извлеки все имена из этого текста.
extraction simple zh 从下面的文字中提取所有的人名和地名。
extraction simple ja 次の文章から日付を抽出してください。
extraction simple ko 다음 글에서 이메일 주소를 추출해 주세요.
summarisation simple en Summarize the following article in three bullet points.
summarisation simple en TLDR of this thread please
summarisation simple en Give me the key points of this meeting transcript.
summarisation simple en Can you write a short summary of chapter four?
summarisation simple de Fasse den folgenden Text in zwei Sätzen zusammen.
summarisation simple de Erstelle eine Zusammenfassung dieses Berichts.
summarisation simple fr Résume ce texte en cinq phrases.
summarisation simple es Resume el siguiente artículo en un párrafo.
summarisation simple it Riassumi questo articolo in poche righe.
summarisation simple pt Faça um resumo deste texto.
summarisation simple ru Сделай краткое изложение этой статьи.
summarisation simple zh 请总结这篇文章的主要内容。
summarisation simple ja この記事を要約してください。
summarisation simple ko 이 기사를 세 문장으로 요약해 주세요.
summarisation simple nl Vat dit artikel samen in drie zinnen, een korte samenvatting graag.
translation simple en Translate to French: Where is the train station?
translation simple en How do you say "good evening" in Japanese? Translate it please.
translation simple en Translate this contract clause into German, keeping the legal terms.
translation simple de Übersetze den folgenden Satz ins Englische: Der Hund schläft.
translation simple de Bitte übersetzen Sie diesen Absatz ins Spanische.
translation simple fr Traduis cette phrase en anglais : il pleut beaucoup.
translation simple es Traduce esto al inglés: me gusta leer por la noche.
translation simple it Traduci in inglese: domani andiamo al mare.
translation simple pt Traduza para o inglês: eu gosto de música.
translation simple ru Переведи на английский: завтра будет дождь.
translation simple zh 把下面的句子翻译成英文：我明天去北京。
translation simple ja 次の文を英語に翻訳してください：明日は雨です。
translation simple ko 다음 문장을 영어로 번역해 주세요: 내일 비가 와요.
translation simple tr Şu cümleyi İngilizceye çevir: yarın yağmur yağacak.
translation simple nl Vertaal deze zin naar het Engels: het regent.
creative simple en Write a haiku about autumn leaves.
creative medium en Tell me a bedtime story about a dragon who is afraid of fire.
creative simple en Write a poem about Python programming.
creative simple en Come up with ten catchy slogans for a coffee shop.
creative medium en Write the opening paragraph of a detective novel set in Venice.
creative simple de Schreibe ein Gedicht über den Herbst.
creative medium de Erzähle mir eine Geschichte von einem Fuchs und einem Raben.
creative simple fr Écris un poème sur la mer.
creative simple es Escribe un poema sobre la lluvia.
creative medium it Scrivi una storia su un gatto che viaggia nel tempo.
creative simple pt Escreva um poema sobre a saudade.
creative simple ru Напиши стихотворение о зиме.
creative simple zh 写一首关于春天的诗。
creative simple ja 桜についての俳句を作ってください。
creative medium ko 우주를 여행하는 고양이에 대한 이야기를 써 주세요.
creative simple pl Napisz wiersz o jesieni.
"""

TASKS = """\
coding|my pandas merge keeps duplicating rows after the join, any idea what I'm doing wrong?
coding|Can you add type hints and docstrings to this? async def fetch(url): return await session.get(url)
coding|I get 'CORS policy blocked' when my React app calls the backend
coding|Convert this callback hell into async/await please
coding|Wie sortiere ich in Java eine Liste von Objekten nach zwei Feldern?
coding|给我写一个SQL查询，统计每个用户的订单数量
coding|Comment centrer une div en CSS ?
reasoning|A bat and a ball cost $1.10 together. The bat costs $1 more than the ball. How much is the ball?
reasoning|what's the integral of x*sin(x)
reasoning|How does CRISPR actually cut DNA?
reasoning|Three people check into a hotel room that costs $30. Where is the missing dollar?
reasoning|Should a central bank raise rates during stagflation? Weigh the arguments.
reasoning|Wie viele verschiedene Anordnungen gibt es für die Buchstaben in MISSISSIPPI?
reasoning|¿Cuánto es el 15% de 240?
reasoning|为什么月亮总是同一面朝向地球？
extraction|Return a JSON object with the name, age and city found in: "Anna, 34, lives in Oslo."
extraction|Which of these support tickets are about billing? Tag each one.
extraction|Find every phone number in the message below
extraction|Is this email spam? Answer spam or ham: "You won a prize!"
extraction|Hole aus dem folgenden Text alle Telefonnummern heraus und gib sie als Tabelle aus
summarisation|What are the main takeaways from this report?
summarisation|Boil this paper down to five sentences for a layperson
summarisation|tl;dr?
summarisation|Make this shorter: The committee, having considered at length the many submissions it received...
summarisation|请用三句话概括下面的内容
translation|What does "Fernweh" mean in English? Give me a translation.
translation|Put this paragraph into Spanish: The meeting was moved to Friday.
translation|How would a native speaker say this in Italian: I'd like to book a table
translation|Wie sagt man "guten Appetit" auf Japanisch?
translation|Comment dit-on "merci beaucoup" en allemand ?
creative|Pen a limerick about a cat named Schrödinger
creative|I need a wedding toast for my sister, warm and a bit funny
creative|Give my sci-fi villain a tragic backstory
creative|Rewrite the ending of Romeo and Juliet so that everyone lives
creative|Invente une légende sur l'origine des étoiles filantes
creative|帮我写一段浪漫的情书
chat|what should I cook tonight? I have eggs and spinach
chat|Who won the World Cup in 2014?
chat|good morning! any plans for today?
chat|I'm feeling a bit down lately
chat|When was the Eiffel Tower built?
chat|Wann fährt der letzte Zug nach Köln?
chat|Ok danke, bis später
chat|¿Qué me recomiendas ver en Netflix?
chat|今天晚上吃什么好呢？
coding|Why is my useEffect hook running twice?
coding|Optimize this query, it takes 40 seconds on a table with 10M rows
coding|What's the difference between a mutex and a semaphore?
coding|Dockerize a Flask app with Redis
coding|Ich bekomme einen Segmentation Fault in C, wie finde ich die Ursache?
coding|¿Cómo hago un merge de dos ramas en git?
coding|このエラーの原因を教えて: TypeError: undefined is not a function
reasoning|I have 3 apples and eat one every day. How many are left after two days?
reasoning|Is it ethical to eat meat? Discuss both sides.
reasoning|What would happen to the tides if the moon were twice as close?
reasoning|Find the derivative of ln(x^2+1)
reasoning|Pourquoi les feuilles tombent-elles en automne ?
reasoning|Quante combinazioni ci sono per una password di 4 cifre?
reasoning|请证明勾股定理
extraction|Here is a resume. Give me the candidate's name, email and years of experience as JSON.
extraction|Sort these products into the categories electronics, clothing and food
extraction|What are the invoice number and the total in the text below?
extraction|Erkenne alle Personen und Orte in diesem Artikel
extraction|Identifie les entreprises mentionnées dans ce communiqué
summarisation|Give me a brief overview of the document above
summarisation|Condense this email thread into action items
summarisation|Was sind die wichtigsten Punkte in diesem Protokoll?
summarisation|Hazme un resumen corto del libro
summarisation|Can you recap what was discussed in the call?
translation|Can you turn this email into polite Japanese?
translation|English to Hindi: I am learning to cook
translation|Was heißt "butterfly" auf Deutsch?
translation|Come si dice "thank you" in russo?
translation|请把以下内容译成日语
creative|Write lyrics for a country song about a lost dog
creative|Suggest names for my new bakery
creative|Describe a sunset on Mars in vivid, poetic language
creative|Schreib mir eine lustige Rede zum 60. Geburtstag meines Vaters
creative|Escribe el comienzo de una novela de terror
chat|How tall is Mount Everest?
chat|Any tips for a first date?
chat|Who are you?
chat|What's a good gift for a 10 year old who likes dinosaurs?
chat|Quel temps fait-il à Paris ?
chat|Mi sono annoiato oggi
"""
"""Task and text alone: prompts that do not name their task, which the tables were then made for."""

HELD_OUT = """\
coding|How can I make this loop faster?  for i in range(len(a)): b.append(a[i]*2)
coding|Build me a REST endpoint in Express that uploads a file to S3
coding|git says 'detached HEAD', how do I get back?
coding|Explain what this code does: x = lambda n: n if n < 2 else x(n-1) + x(n-2)
coding|Erstelle eine Klasse in C#, die einen Stack implementiert
coding|Comment lire un fichier JSON en Python ?
coding|帮我调试这段JavaScript代码
reasoning|A farmer has 17 sheep and all but 9 die. How many are left?
reasoning|Why did the Roman Empire fall?
reasoning|What is the probability of rolling two sixes in a row?
reasoning|Evaluate whether nuclear power is a good answer to climate change
reasoning|Wie funktioniert ein Kühlschrank?
reasoning|¿Por qué existen los años bisiestos?
reasoning|あるクラスに30人いて、18人が女子です。男子は何人ですか？
extraction|Label each sentence as fact or opinion
extraction|From the text below, extract product name and price as CSV
extraction|Which people are mentioned in this passage?
extraction|Ordne die folgenden Tickets den Kategorien Technik, Rechnung und Sonstiges zu
extraction|Dame una lista con todas las fechas que aparecen en el documento
summarisation|Please summarise our conversation so far
summarisation|Write an abstract for the following paper
summarisation|Give me the gist of this in two lines
summarisation|Kannst du das bitte kurz zusammenfassen?
summarisation|Сократи этот текст до трёх предложений
translation|Please translate the menu into Chinese
translation|¿Cómo se dice "buenas noches" en alemán?
translation|Render the following passage in modern English: Wherefore art thou
translation|번역해줘: See you tomorrow
creative|Compose a short song for my daughter's fifth birthday
creative|Give me a creative Instagram caption for a beach photo
creative|Write a dialogue between the sun and the moon
creative|Denk dir einen Witz über Programmierer aus
creative|Crée un slogan pour une marque de chaussures
chat|Which is better for a weekend trip, Lisbon or Porto?
chat|tell me something interesting
chat|How do I remove red wine stains from a carpet?
chat|Who is the president of France?
chat|Wie spät ist es in New York?
chat|¿Qué puedo regalarle a mi madre?
chat|おはよう！今日の予定は？
"""
"""Written after the tables were done, and never looked at to change them."""


def labelled() -> list[tuple[str, str, str, str]]:
    """Task, complexity, language and text of each prompt."""
    rows = []
    for line in PROMPTS.splitlines():
        task, complexity, language, text = line.split(" ", 3)
        rows.append((task, complexity, language, text))
    return rows


def by_task(text: str) -> list[tuple[str, str]]:
    """Task and text of each prompt."""
    return [(task, said) for task, _, said in (line.partition("|") for line in text.splitlines())]
