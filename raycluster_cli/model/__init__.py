"""Plain values and their meaning: settings, states, the record's schema, errors, causes of failures."""
