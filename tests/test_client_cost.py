"""What the benchmark of paying says, at its smallest: who needs how many exchanges."""

from bench.client_cost import client_cost


async def test_a_paid_request_of_ours_is_one_exchange_and_the_official_clients_are_two() -> None:
    found = await client_cost(requests=20, rounds=1)
    assert found["client_exchanges_per_payment"] == {"ours": 1.0, "x402_python": 2.0}
    spent = found["client_cpu_us_per_payment"]
    assert isinstance(spent, dict)
    assert set(spent) == {"ours", "x402_python"}
    assert all(us > 0 for us in spent.values())
