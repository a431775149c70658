"""Who is at the door: passwords, login, sessions, request forgery, rates, headers."""
