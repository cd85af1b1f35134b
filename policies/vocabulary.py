"""Words that tell what a request is about, in a dozen languages.

Written for this purpose, by hand. A word that ends in `*` stands for all that begin so, where the
part before it has four to nine letters. What is written without spaces between words (Chinese,
Japanese, Korean, Thai) is looked for anywhere in the text.
"""

from __future__ import annotations

from collections.abc import Mapping

from policies.base import Domain, Task

# Task -> (how much a word says, the words). Verbs that order a kind of work say more than nouns of
# its field: a poem about Python is a poem.
TASKS: Mapping[Task, tuple[tuple[float, str], ...]] = {
    "translation": (
        (
            3.5,
            "translate* translation translating übersetz* uebersetz* traduis traduisez traduire "
            "traduction traduce traduzca traduzco traducir traducción tradúceme traduza traduzir "
            "tradução traduci tradurre traduzione vertaal vertalen vertaling przetłumacz* "
            "tłumacz* översätt* oversæt* oversett* perevedi переве* перевод* переклад* çevir "
            "çevirin tercüme ترجم ترجمة अनुवाद 翻译 翻譯 译成 翻訳 訳して 번역 แปล",
        ),
    ),
    "summarisation": (
        (
            3.2,
            "summar* tldr zusammenfass* fasse fass résum* resum* riassum* riassunto "
            "samenvat* streszcz* podsumuj* sammanfatta* краткое кратко резюмир* обобщ* изложи "
            "özetle özet لخص ملخص सारांश 总结 總結 摘要 概括 要約 まとめて 요약 สรุป condense* recap",
        ),
        (
            1.2,
            "shorten gist bullets kürze abrégé breve digest keypoints highlights takeaways",
        ),
    ),
    "extraction": (
        (
            2.6,
            "extract* extrah* extrai* extrae estra* extraire extraheer wyodrębnij wyciąg* извлек* "
            "classify categor* klassifi* classer clasific* classific* categori* "
            "tagging annotate parse sentiment استخرج 提取 抽取 分类 抽出 分類 추출 분류 "
            "entities entität* anonymi*",
        ),
        (
            1.1,
            "fields names emails addresses dates invoice receipt json csv table tabelle columns "
            "identif* erkenne mentioned erwähnt* mentionn* menciona* sort categories candidate "
            "felder every occurrence label labels identify liste list rechnung "
            "facture factura fattura fatura счет",
        ),
    ),
    "creative": (
        (
            3.0,
            "poem* poetry haiku limerick sonnet lyrics ballad screenplay fanfic* slogan "
            "tagline bedtime fairytale gedicht* märchen poème poésie comptine poema poesia poesía "
            "cuento filastrocca wiersz* opowiadanie dikt saga стих* рассказ* сказк* şiir hikaye قصة "
            "قصيدة कविता कहानी 诗 小说 故事 童话 詩 俳句 物語 小説 시를 동화 이야기",
        ),
        (
            2.2,
            "story stories tale song novel* monologue rap character plot dialogue speech toast "
            "geschichte kurzgeschichte lied roman histoire conte chanson historia canción conto "
            "história storia racconto canzone verhaal brainstorm* namen catchy slogans jingle "
            "advert* creative invent* imagine toast verse rhyme* rhyming joke jokes witz blague chiste "
            "шутк* essay aufsatz poetic vivid vividly lustige rede discours discurso",
        ),
    ),
    "coding": (
        (
            2.2,
            "python javascript typescript java kotlin swift golang rust haskell scala php perl "
            "bash powershell sql postgres* mysql sqlite mongodb regex regexp html css react vue "
            "angular django flask fastapi numpy pandas pytorch tensorflow docker* kubernetes "
            "terraform github gitlab webpack npm yarn cmake makefile numpy asyncio segfault "
            "traceback stacktrace nullpointer* refactor* debug* compile* compiler unittest pytest "
            "codebase leetcode api endpoint graphql webhook oauth программ* код кода функци* 代码 "
            "函数 编程 程序 コード 関数 プログラム 코드 함수 프로그램",
        ),
        (
            1.4,
            "function functions funktion fonction función funzione função functie funkcj* code "
            "quellcode código codice kod script skript programm* program programa class "
            "method algorithm* algorithmus algoritmo algorithme array loop thread* mutex async "
            "query database schema migration bug exception crash* deploy* "
            "backend frontend server library package import module variable recursion "
            "mutex semaphore index merge commit branch rebase docker* hook usestate useeffect "
            "segmentation socket frontend css flexbox div fehler bibliothek variable variablen "
            "optimize optimise latency throughput spark kafka redis nginx linux ssh kernel driver "
            "recursive linked binary tree hash* cache unit tests implement* implementier* "
            "implementa* parser cli lambda pointer struct interface",
        ),
    ),
    "reasoning": (
        (
            2.4,
            "prove proof theorem lemma derive integral derivative differentiate equation* "
            "solve calculate compute calcul* probability probabilit* logarithm matrix eigen* modulo "
            "beweis* berechn* löse gleichung* integriere wahrscheinlichkeit démontre* prouve "
            "résous équation* demuestra resuelve ecuación calcula* dimostra risolvi prova resolva "
            "equação bewijs oblicz rozwiąż udowodnij докаж* реши вычисли* уравнен* вероятност* 证明 "
            "计算 求解 方程 概率 証明 計算 方程式 確率 증명 계산 방정식 확률 puzzle riddle logic",
        ),
        (
            1.5,
            "explain* erklär* erkläre explique* expliquer explica* spiega* spiegami leg uitleg* "
            "wyjaśnij* förklara forklar* объясн* поясн* açıkla اشرح समझाएं समझाइए 解释 說明 解釋 说明 説明 "
            "설명 อธิบาย analy* compare vergleich* vergleiche compar* confront* porówn* сравни* "
            "проанализ* 分析 比较 比較 분석 비교 evaluate bewert* évalu* evalú* valuta "
            "implication* implikation* consequence* tradeoff* reason reasoning deduce infer "
            "hypothes* argue critique critically why warum weshalb pourquoi perché dlaczego "
            "почему 为什么 なぜ 왜",
        ),
    ),
    "chat": (
        (
            1.5,
            "hello hi hey thanks thank hallo moin danke bonjour salut merci hola gracias ciao "
            "grazie olá obrigado hoi bedankt cześć dzięki hej tack привет спасибо merhaba مرحبا "
            "नमस्ते 你好 谢谢 こんにちは ありがとう 안녕 สวัสดี",
        ),
    ),
}

PHRASES: tuple[tuple[Task, float, str], ...] = (
    (
        "translation",
        2.6,
        r"\b(?:in|into|to|auf|ins?|en|al|em|a|på|na|naar(?: het)?|на|по) (?:the |formal |polite |simple )?"
        r"(?:english|french|german|spanish|italian|portuguese|dutch|polish|russian|japanese|chinese"
        r"|korean|arabic|turkish|hindi|swedish|latin|mandarin"
        r"|englisch\w*|deutsch\w*|französisch\w*|spanisch\w*|italienisch\w*|japanisch\w*"
        r"|russisch\w*|anglais|allemand|français|espagnol|italien|japonais|chinois|inglés|alemán"
        r"|francés|español|italiano|japonés|inglese|tedesco|francese|spagnolo|inglês|francês"
        r"|espanhol|engels|duits|angielski|niemiecki|английск\w*|немецк\w*|французск\w*)\b"
        r"|\b(?:native speaker say|wie sagt man|comment dit-on|cómo se dice|come si dice"
        r"|como se diz|how do (?:you|i) say|hoe zeg je|как сказать)\b|用?[英法德日韩]语怎么说",
    ),
    (
        "reasoning",
        2.0,
        r"\b(?:how (?:many|much|far|long|old|fast|likely)|wie ?viele?|wie lange|combien|cuántos?"
        r"|cuántas?|cuánto|quant[oiae]s?|ile|hoeveel|сколько)\b.{0,80}\d"
        r"|\d.{0,80}\b(?:how (?:many|much|far|long|old|fast|likely)|wie ?viele?|wie lange|combien"
        r"|cuántos?|cuántas?|cuánto|quant[oiae]s?|hoeveel|сколько)\b|\d.{0,40}(?:多少|几|いくつ|何|몇)"
        r"|\d ?% (?:of|von|de|di|от)\b",
    ),
    (
        "reasoning",
        1.6,
        r"\bhow (?:do|does|did|is|are|was|were|would|can) .{0,60}\b(?:work|works|actually|cause"
        r"|affect|happen|form|differ|know|made|cut|move|grow|lead|relate)\b"
        r"|\b(?:wie (?:funktioniert|entsteh\w*|kommt es)|comment (?:fonctionne|marche)"
        r"|cómo funciona\w*|come funziona\w*|como funciona\w*|hoe werkt\w*|jak działa\w*)\b"
        r"|\b(?:pros and cons|both sides|is it (?:ethical|moral|right)|discuss |arguments? (?:for|against)|weigh|step by step|paso a paso"
        r"|schritt für schritt|what (?:would|if)|difference between|unterschied zwischen"
        r"|différence entre|diferencia entre|anordnungen|sequence|next number|who is lying)\b"
        r"|как работа|怎么工作|如何工作|区别|どうやって",
    ),
    (
        "extraction",
        2.0,
        r"\b(?:find|list|get|pull|return|give|hole?|suche?|trouve\w*|encuentra|trova|encontre|liste)"
        r"\b.{0,25}\b(?:all|every|each|any|out|alle|sämtliche|tous|toutes|todos|todas|tutti|tutte)\b"
        r"|\b(?:json|csv|yaml|xml|table|tabelle|tableau|tabla)\b.{0,40}\b(?:with|from|of|mit|aus|avec)\b"
        r"|\b(?:which|welche) of (?:these|the following)|\b(?:is|are) (?:this|these|it) .{0,30}"
        r"(?:spam|positive|negative|toxic|about)\b|\btag (?:each|every|the)\b|\bspam or\b"
        r"|\b(?:in|from|im|dans|en|del|nel) (?:the |this |diesem |le |ce |este |el |questo )?"
        r"(?:text|article|document|email|message|artikel|dokument|texte|artículo|texto|testo|passage)"
        r"(?: below| above| unten)?\b|\bhere is (?:a|an|the) (?:resume|cv|email|invoice|receipt)\b"
        r"|\b(?:als|into|in|as|en) (?:a |einer |une )?(?:table|tabelle|tableau|tabla|json|csv)\b",
    ),
    (
        "summarisation",
        2.3,
        r"\b(?:tl;?dr|boil .{0,40} down|in (?:one|two|three|four|five|a few|\d+) (?:short )?"
        r"(?:sentences?|bullets?|bullet points|lines|words)\b|make (?:this|it) (?:shorter|concise)"
        r"|(?:shorten|condense|cut) (?:this|it|the)\b|in (?:zwei|drei|vier|fünf) sätzen\b"
        r"|en (?:une|deux|trois|quatre|cinq|\d+) phrases\b|what (?:is|are|was|were) the (?:main|key)"
        r"|(?:brief|short|quick|high-level) (?:overview|summary|recap)|overview of\b"
        r"|wichtigsten punkte\b|points (?:clés|essentiels)\b|puntos (?:clave|principales)\b"
        r"|action items\b|main (?:points|ideas|takeaways|arguments)\b)|三句话|一句话|主要内容|短くして",
    ),
    (
        "creative",
        2.4,
        r"\b(?:suggest (?:\w+ )?(?:names|titles|ideas)|backstory|wedding toast|love letter|liebesbrief|lettre d'amour|carta de amor"
        r"|once upon a time|es war einmal|il était une fois|érase una vez|happy ending"
        r"|alternate ending|rewrite the ending|short film|birthday card|dad joke|pick-up line"
        r"|(?:tell|write|make) .{0,20}\bjokes?|in the style of|im stil von|dans le style"
        r"|légende|leyenda|leggenda|lenda|legend about|fable|fabel|parody|villain|sci-fi|fantasy)\b"
        r"|情书|编一个|编个|笑话",
    ),
)
"""What several words say together."""

HARD = (
    "prove proof theorem rigorous* formal* derive implication* tradeoff* trade architect* "
    "distributed consensus byzantine concurren* lock deadlock optimi* scalab* fault consisten* "
    "invariant* asymptotic* complexity quantum relativ* stochastic bayes* causal* constitution* "
    "jurisdiction* differential nonlinear* np design strateg* comprehensive* in-depth thorough* "
    "critically synthesi* multi refactor* microservice* migration* cryptograph* adversarial* "
    "security vulnerab* protocol* transaction* beweis* architektur* verteilte* nebenläufig* "
    "entwirf entwerf* ausführlich* gründlich* auswirkung* abwäg* démontre* conçois concevoir "
    "approfondi* répartie* compromis implicac* demuestra diseña* exhaustiv* distribuid* progett* "
    "dimostra distribuit* approfond* implicaz* projete спроектируй* распредел* докаж* подробн* "
    "последств* 证明 设计 架构 分布式 深入 影响 権衡 証明 設計 分散 詳細 증명 설계 분산 자세히 ontwerp* "
    "zaprojektuj* rozproszon* udowodnij*"
)
"""Words of work that takes thought."""

STEPS = (
    "then also additionally furthermore finally ensure must should include including each "
    "compare justify provide dann außerdem zusätzlich schließlich anschließend begründe "
    "berücksichtige ensuite également puis enfin justifie además luego después justifica inoltre "
    "poi infine também depois затем также наконец обоснуй 然后 并且 同时 最后 そして また 最後に 그리고 또한"
)
"""Words that join one demand to the next."""

HURRY = (
    "quick quickly briefly short asap urgent fast schnell kurz knapp vite bref brièvement rápido "
    "brevemente veloce snel szybko быстро срочно 快速 简短 急ぎ 빨리"
)

DOMAINS: Mapping[Domain, str] = {
    "software": (
        "software code python javascript typescript java rust golang sql api server database "
        "docker* kubernetes linux git bug compiler algorithm* function functions "
        "programm* frontend backend regex css html react debug* deploy* 代码 编程 函数 コード 関数 "
        "코드 함수 код программ* функци* funktion datenbank fonction logiciel función"
    ),
    "mathematics": (
        "math* equation* integral derivative theorem algebra geometry calculus matrix "
        "probability prime polynomial topology gleichung* beweis* équation* ecuación equazion* "
        "уравнен* теорем* 方程 数学 证明 数学的 方程式 수학 방정식 mathématiques matemat*"
    ),
    "science": (
        "quantum physics chemistry biology molecul* atom* photon* entangle* relativity evolution "
        "photosynthesis climate planet* galaxy energy gravity cell cells genome protein* physik "
        "chemie biologie quanten* physique chimie química física biología fisica biologia "
        "физик* хими* биолог* квант* 物理 化学 生物 量子 物理学 양자 물리"
    ),
    "medicine": (
        "medical patient* symptom* diagnos* disease* drug dosage therapy treatment doctor clinical "
        "cancer vaccine* surgery medizin* arzt krankheit* symptome médecin maladie santé médico "
        "enfermedad salud medico malattia врач* болезн* лечен* 医生 症状 疾病 药 病気 医療 의사 증상"
    ),
    "law": (
        "legal law contract* clause* liability statute court plaintiff defendant copyright "
        "gdpr lawsuit attorney tort vertrag* gesetz* recht anwalt klausel haftung contrat loi "
        "juridique avocat contrato ley abogado legge contratto avvocato закон* договор* суд "
        "法律 合同 条款 契約 法的 법률 계약"
    ),
    "finance": (
        "stock* bond invest* portfolio interest inflation tax taxes revenue balance ebitda "
        "dividend* mortgage loan currency aktie* zins* steuer* kredit bourse impôt intérêt "
        "bolsa impuesto interés borsa tasse акци* налог* процент* 股票 投资 利率 税 株 投資 金利 주식 투자"
    ),
    "history": (
        "history historical war century empire ancient medieval revolution emperor dynasty "
        "napoleon roman geschichtlich* krieg jahrhundert kaiser guerre siècle empereur guerra "
        "siglo imperio secolo impero войн* империя истори* 历史 战争 朝代 歴史 戦争 역사 전쟁"
    ),
    "business": (
        "marketing customer* sales strategy startup product market meeting email stakeholder* "
        "kpi hiring manager kunde* vertrieb unternehmen client entreprise marché cliente ventas "
        "empresa azienda mercato vendite клиент* продаж* рынок 营销 客户 市场 会议 顧客 会議 마케팅 고객"
    ),
}

LANGUAGES: Mapping[str, str] = {
    "en": "the of and to is in that it for with are this what how you on be please write why a me",
    "de": "der die das und ist nicht ein eine einen zu mit für auf wie was den dem bitte ich von im",
    "fr": "le la les des est et une un pour dans que qui pas avec sur ce cette moi du je comment en",
    "es": "el la los las es y una un para que por con del en se cómo qué este esta me lo al",
    "it": "il lo gli della è e una un per che con non di come questo questa sono nel mi del in",
    "pt": "o os as é e uma um para que com não do da em como este esta no na me ao por",
    "nl": "de het een en is van niet met voor op dat deze wat hoe ik je zijn naar in aan",
    "pl": "i w na nie to jest się z do że jak co dla po od mi ten ta tę napisz",
    "sv": "och att det är en ett som på för med av inte den detta hur vad jag mig till",
    "tr": "ve bir bu için ile ne nasıl mi da de olarak çok bana nedir şu en",
}
"""The commonest words of languages that are written with Latin letters."""

LETTERS: Mapping[str, str] = {
    "de": "äöüß",
    "fr": "çêûœëï",
    "es": "ñ¿¡ú",
    "it": "èòì",
    "pt": "ãõ",
    "pl": "łąężźśćń",
    "sv": "å",
    "tr": "şğı",
}
"""Letters that are rare in the others of them."""
