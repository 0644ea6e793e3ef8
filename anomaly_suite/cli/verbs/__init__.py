"""One file a verb: it reads the words after the verb and does what they say."""
