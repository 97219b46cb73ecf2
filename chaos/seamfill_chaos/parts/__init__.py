"""Real parts for tests and the demo: how to get, start and stop a real QuestDB and its like."""
