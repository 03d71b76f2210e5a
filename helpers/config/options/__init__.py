"""The option groups: each setting is declared once, and each group goes only to the code that uses it."""
