-- Keeps the hold of a request that still runs; one that is gone is passed over.
-- KEYS  holds    ARGV  request, hold ms
local hold = redis.call('HGET', KEYS[1], ARGV[1])
if not hold then return {'lost'} end
local price, amount = parsed(hold)
redis.call('HSET', KEYS[1], ARGV[1], price .. ' ' .. amount .. ' ' .. integer(now_ms() + ARGV[2]))
return {'ok'}
