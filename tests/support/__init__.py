"""What several test files share: models with known answers, checks, a zoo of Pyro programs."""
