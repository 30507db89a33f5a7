"""Everything at once on a clock of its own, from one seed: `python -m simulate`.

Agents, providers with several workers, a store, a chain and a network between them live in one
process and in virtual time. Faults are drawn from the seed, and so is everything else that is
random, so the same seed is the same history, to the last event. What runs is the product itself:
`Paywall`, the gates of both schemes and `Exchange`, the agent's transport, flow and wallet, the
claimer with its watcher and plans, and the rules of channels and slips. What is simulated is what
lies around it: time, the network, the store's server, the contract and its token, and in most
worlds the curve under signatures and the file under a wallet. An oracle that knows none of the
rules keeps a ledger of its own and says what went wrong.
"""
