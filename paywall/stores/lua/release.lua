-- Drops a hold uncharged and makes its voucher good again. A hold that is gone is no error.
-- KEYS  record, holds, entry of the payment's id if it has one    ARGV  request
local key, holds, request = KEYS[1], KEYS[2], ARGV[1]
local hold = redis.call('HGET', holds, request)
if not hold then return {'ok'} end
local price, amount = parsed(hold)
local r = load(key)
redis.call('HDEL', holds, request)
forget(r, amount)
r.hp, r.hn = sub(r.hp, price), r.hn - 1
save(key, r)
if KEYS[3] then redis.call('DEL', KEYS[3]) end
return {'ok'}
