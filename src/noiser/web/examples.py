"""Questions of our own for the page, that the default model answers well."""

from typing import Any

EXAMPLES: list[dict[str, Any]] = [
    {"title": "A fact", "prompt": "The Eiffel Tower is located in the city of"},
    {
        "title": "Why this, not that?",
        "prompt": "Berlin is in Germany. Madrid is in Spain. Paris is in",
        "target": " France",
        "foil": " Spain",
    },
    {"title": "Singular or plural", "prompt": "The keys to the cabinet", "target": " are", "foil": " is"},
    {
        "title": "Remembering a name",
        "prompt": "My dog is called Rex. It is a sunny day and we walk through the park. I throw a ball and call my dog:",
    },
    {"title": "Several words", "prompt": "To make tea, you first boil the water, then", "generate": 6},
    {"title": "A chat", "messages": [{"role": "user", "content": "What is the opposite of hot?"}], "generate": 7},
    {
        "title": "An answer under way",
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "My name is Ada and I live in Berlin. What is my name?"},
            {"role": "assistant", "content": "Your name is"},
        ],
    },
]
"""Each is a request without methods, with a title."""
