-- Here is what the chain says of a refund that was sent; or it never was. It stays set aside while its
-- nonce is not counted, and where another before it may have been sent; and what another request has set
-- aside meanwhile is not this one's to end.
-- KEYS  record, holds, channels that owe, ledger
-- ARGV  channel id, request as it was set aside, and when it was sent: balance, claimed, withdraw amount,
--       requested at, refund nonce, block, read at ms
local key = KEYS[1]
local r = load(key)
if not r then return {'unknown'} end
-- These fail, before anything is written, when they are somebody else's.
redis.call('HLEN', KEYS[2])
redis.call('ZCARD', KEYS[3])
redis.call('XLEN', KEYS[4])
local before = r.c
if ARGV[3] then observe(KEYS[3], ARGV[1], r, 3) end
local kept = r.ra ~= '0' and (ARGV[3] or string.sub(ARGV[2], 1, 1) == '+')
if r.rq == ARGV[2] and not kept then r.ra, r.rx, r.rq = nil, nil, nil end
save(key, r)
note_risen(KEYS[4], ARGV[1], before, r.c)
return whole('ok', r, KEYS[2])
