"""The online spine: a user and a release go in, an explained slate comes out."""
