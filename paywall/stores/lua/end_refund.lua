-- Here is what the chain says of a refund that was sent; or it never was. It stays set aside while its
-- nonce is not counted, and where another before it may have been sent.
-- KEYS  record, holds, channels that owe, ledger
-- ARGV  channel id, and when it was sent: balance, claimed, withdraw amount, requested at,
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
local kept = r.ra and r.ra ~= '0' and (ARGV[2] or string.sub(r.rq, 1, 1) == '+')
if not kept then r.ra, r.rx, r.rq = nil, nil, nil end
save(key, r)
note_risen(KEYS[4], ARGV[1], before, r.c)
return whole('ok', r, KEYS[2])
