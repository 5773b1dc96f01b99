"""The suite; a package, so that its modules share helpers and worker processes can import them."""
