-- Spends a nonce once: '1' for the first, '0' for everybody else until it has expired.
-- KEYS  nonce    ARGV  who spends it, ms that it is remembered
local owner = redis.call('GET', KEYS[1])
if owner then return owner == ARGV[1] and 1 or 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
