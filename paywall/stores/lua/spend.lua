-- Spends something once: 1 for the first who asks and whenever it asks again, 0 for everybody else.
-- KEYS  what is spent    ARGV  who spends it, ms that this is remembered
local now = now_ms()
local spent = redis.call('GET', KEYS[1])
if spent then
  local expires, owner = string.match(spent, '^(%d+) (.*)$')
  if tonumber(expires) > now then return owner == ARGV[1] and 1 or 0 end
end
redis.call('SET', KEYS[1], integer(now + ARGV[2]) .. ' ' .. ARGV[1], 'PX', ARGV[2])
return 1
