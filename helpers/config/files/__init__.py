"""Small files that options name: webhook, prompt library, LyCORIS."""
