"""Authentication: passwords, sign-in, OpenID Connect, session cookies, CSRF tokens."""
