"""The option groups: each setting declared once, each group handed only to what it steers."""
