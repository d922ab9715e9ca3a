"""Sixty strings that somebody else's data may hold, and what each would do where it is not made harmless for its medium."""

SCRIPTS = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "<!--<script>alert(3)",
    "]]><script>alert(4)</script>",
    "<img src=x onerror=alert(5)>",
    "<svg onload=alert(6)>",
    "<svg><script>alert(7)</script></svg>",
    "<iframe srcdoc='<script>alert(8)</script>'>",
    "<body onload=alert(9)>",
    "<a href='javascript:alert(10)'>",
    "<style>*{display:none}</style>",
    "<link rel=stylesheet href=http://example.invalid/x.css>",
    "<meta http-equiv=refresh content='0;url=http://example.invalid'>",
    "<base href=http://example.invalid/>",
    "<form action=http://example.invalid><input name=a>",
    "<noscript><p title='</noscript><img src=x onerror=alert(11)>'>",
    "<math><mtext></mtext><script>alert(12)</script></math>",
    "<template><script>alert(13)</script></template>",
    "<ScRiPt>alert(14)</sCrIpT>",
    "<<b>script>alert(15)<</b>/script>",
)
ATTRIBUTES = (
    '" onmouseover="alert(16)',
    "' onfocus='alert(17)' autofocus='",
    '"><b>bold</b>',
    "'><b>bold</b>",
    "` onclick=alert(18) `",
    "&quot; onmouseover=alert(19)",
    "&lt;script&gt;alert(20)&lt;/script&gt;",
    "&#60;script&#62;alert(21)&#60;/script&#62;",
    "x style=background:url(http://example.invalid/)",
    "javascript:alert(22)",
)
TEMPLATES = (
    "{{7*7}}",
    "${alert(23)}",
    "{% raw %}{% endraw %}",
    "{data}",
    "{script}",
    "{policy}{title}{style}",
    "%(name)s %s %d",
    "{0.__class__.__mro__}",
    "[bold red]rich[/bold red]",
    "\\u003cscript\\u003ealert(24)\\u003c/script\\u003e",
    "\\x3cscript\\x3e",
    "__proto__",
    "constructor",
)
PLACES = (
    "\u202egnp.exe",
    "\u2066hidden\u2069",
    "zero\u200bwidth\u200d\ufeff",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x9b2J",
    "nul\x00byte",
    "back\x08space\x7f",
    "line\u2028separator\u2029",
    "\U000e0041\U000e0042 tags",
)
MARKUP = (
    "\\input{/etc/passwd}",
    "$\\alpha_{x}^{2}$ % & # ~",
    "\\end{document}",
    "|cell|`code`|<b>",
    "[link](javascript:alert(25))",
    "![image](http://example.invalid/x.png)",
    "=cmd|' /C calc'!A0",
)
HOSTILE = SCRIPTS + ATTRIBUTES + TEMPLATES + PLACES + MARKUP
assert len(HOSTILE) == len(set(HOSTILE)) == 60
