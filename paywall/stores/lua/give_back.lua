-- Takes a request out of a count; one that is not in it, or not remembered any more, is no error.
-- KEYS  count    ARGV  request
local names = redis.call('HGET', KEYS[1], 'r') or ' '
local first, last = string.find(names, ' ' .. ARGV[1] .. ' ', 1, true)
if not first then return 0 end
redis.call('HSET', KEYS[1], 'r', string.sub(names, 1, first) .. string.sub(names, last + 1))
redis.call('HINCRBY', KEYS[1], 'n', -1)
return 1
