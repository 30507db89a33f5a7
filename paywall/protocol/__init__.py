"""The pure heart: the rules of x402 v2 and of a payment channel, without any I/O.

Nothing in this package reads a clock, draws a random number, opens a socket or imports Redis,
web3, httpx or Starlette. `now` is always an argument. The edges import the heart; the heart
imports nothing of ours but itself.
"""
