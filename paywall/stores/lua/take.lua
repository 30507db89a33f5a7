-- Counts a request: 1, or 0 when the count is at its limit. One that is counted is not counted again.
-- KEYS  count    ARGV  request, limit, ms that a new count lasts, how many requests are remembered
-- A count is a hash: n how many, x deadline (ms), r the requests counted last, " r1 r2 ".
local now = now_ms()
local found = redis.call('HMGET', KEYS[1], 'n', 'x', 'r')
local count, expires, names = tonumber(found[1] or '0'), tonumber(found[2] or '0'), found[3] or ' '
if expires <= now then
  redis.call('DEL', KEYS[1])
  count, expires, names = 0, now + ARGV[3], ' '
end
if string.find(names, ' ' .. ARGV[1] .. ' ', 1, true) then return 1 end
if count >= tonumber(ARGV[2]) then return 0 end
names = names .. ARGV[1] .. ' '
local _, kept = string.gsub(names, '%S+', '')
if kept > tonumber(ARGV[4]) then names = string.gsub(names, '^ %S+', '', 1) end
redis.call('HSET', KEYS[1], 'n', integer(count + 1), 'x', integer(expires), 'r', names)
redis.call('PEXPIRE', KEYS[1], integer(expires - now))
return 1
