"""Statistics: tables in, tables out. Nothing here knows how the tables were made."""
