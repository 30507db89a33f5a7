-- Writes a note under a lease: 1, or 0 when the lease has passed to somebody else.
-- KEYS  lease    ARGV  token, key, then the note, or nothing to drop it
if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then return 0 end
if ARGV[3] then
  redis.call('HSET', KEYS[1], 'n:' .. ARGV[2], ARGV[3])
else
  redis.call('HDEL', KEYS[1], 'n:' .. ARGV[2])
end
return 1
