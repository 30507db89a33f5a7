-- Takes or renews a lease: its fencing token, or 0 while it is another's.
-- KEYS  lease    ARGV  owner, ms that it lasts
-- The lease is a hash: o owner, t token, x deadline (ms), and its notes as `n:<key>`. It never
-- expires, for a token must not come again.
local now = now_ms()
local held = redis.call('HMGET', KEYS[1], 'o', 't', 'x')
local token = tonumber(held[2] or '0')
if held[1] ~= ARGV[1] then
  if held[1] and now < tonumber(held[3]) then return 0 end
  token = token + 1
end
redis.call('HSET', KEYS[1], 'o', ARGV[1], 't', integer(token), 'x', integer(now + ARGV[2]))
return token
