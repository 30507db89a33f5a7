-- Drops a hold uncharged and makes its voucher good again. A hold that is gone is no error.
-- KEYS  record, holds, entry of the payment's id if it has one    ARGV  request
local key, holds, request = KEYS[1], KEYS[2], ARGV[1]
local r = load(key, 'GETEX')
if not r then return {'ok'} end
local price, amount, _, inside = hold_of(r, holds, request)
if not price then return {'ok'} end
drop_hold(r, holds, request, price, inside)
forget(r, amount)
save(key, r)
if KEYS[3] then redis.call('DEL', KEYS[3]) end
return {'ok'}
