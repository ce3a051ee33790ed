//! A cluster in one thread on a seeded clock.
