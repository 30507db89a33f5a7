-- A refund was mined, and here is what the chain says now; or it was given up.
-- KEYS  record, holds, channels that owe, ledger
-- ARGV  channel id, and when it was mined: balance, claimed, withdraw amount, requested at,
--       refund nonce, block, read at ms
local key = KEYS[1]
local r = load(key)
if not r then return {'unknown'} end
-- These fail, before anything is written, when they are somebody else's.
redis.call('HLEN', KEYS[2])
redis.call('ZCARD', KEYS[3])
redis.call('XLEN', KEYS[4])
local before = r.c
if ARGV[2] then observe(KEYS[3], ARGV[1], r, 2) end
r.ra, r.rx, r.rq = nil, nil, nil
save(key, r)
note_risen(KEYS[4], ARGV[1], before, r.c)
return whole('ok', r, KEYS[2])
