"""A conversation goes on anywhere: on any connection, transport and replica, and after a restart of all."""
