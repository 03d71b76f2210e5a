"""Settings and their checks; imports the standard library and pydantic only."""
