-- Drops a hold uncharged and makes its voucher good again. A hold that is gone is no error.
-- KEYS  record, holds, entry of the payment's id (the record when there is none)
-- ARGV  request, '1' when there is an entry
local key, holds, entry_key = KEYS[1], KEYS[2], KEYS[3]
local request, ticket = ARGV[1], ARGV[2]
local hold = redis.call('HGET', holds, request)
if not hold then return {'ok'} end
local price, amount = parsed(hold)
local r = load(key)
redis.call('HDEL', holds, request)
forget(r, amount)
r.hp, r.hn = sub(r.hp, price), r.hn - 1
save(key, r)
if ticket == '1' then redis.call('DEL', entry_key) end
return {'ok'}
