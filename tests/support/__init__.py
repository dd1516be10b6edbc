"""What several test files share: models with known answers, checks of densities, a zoo of Pyro programs."""
