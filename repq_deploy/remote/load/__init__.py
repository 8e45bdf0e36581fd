"""Loading a server: requests in closed and open loops from a process of their own, and what became of each."""
