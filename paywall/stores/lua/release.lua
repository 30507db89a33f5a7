-- Drops a hold uncharged and makes its voucher good again. A hold that is gone is no error.
-- KEYS  record, holds, entry of the payment's id (the record when there is none)
-- ARGV  request, '1' when there is an entry
local hold = redis.call('HGET', KEYS[2], ARGV[1])
if not hold then return {'ok'} end
local price, amount = parsed(hold)
local r = load(KEYS[1], 'hp', 'hn', 'w', 'n')
redis.call('HDEL', KEYS[2], ARGV[1])
if has(r.w, amount) then
  r.w = string.gsub(r.w, ' ' .. amount .. ' ', ' ', 1)
  r.n = r.n - 1
end
redis.call('HSET', KEYS[1], 'hp', sub(r.hp, price), 'hn', integer(r.hn - 1), 'w', r.w,
  'n', integer(r.n))
if ARGV[2] == '1' then redis.call('DEL', KEYS[3]) end
return {'ok'}
