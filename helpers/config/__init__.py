"""What the user may say, and the checks of it; imports the standard library and pydantic only."""
