-- Keeps the holds of requests that still run; one that is gone is passed over.
-- KEYS  holds    ARGV  request...
local deadline = integer(now_ms() + HOLD_MS)
for at = 1, #ARGV do
  local hold = redis.call('HGET', KEYS[1], ARGV[at])
  if hold then
    local price, amount = parsed(hold)
    redis.call('HSET', KEYS[1], ARGV[at], price .. ' ' .. amount .. ' ' .. deadline)
  end
end
return {'ok'}
