-- Writes a slip if what is there is still what its writer saw; answers what is there now.
-- KEYS  slip, ledger
-- ARGV  before ('' for none), after ('' for none), ms that it is kept, line of the ledger
local found = redis.call('GET', KEYS[1]) or ''
if found == ARGV[1] and found ~= ARGV[2] then
  redis.call('XLEN', KEYS[2])
  if ARGV[2] == '' then
    redis.call('DEL', KEYS[1])
  else
    redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
  end
  note(KEYS[2], ARGV[4])
  found = ARGV[2]
end
return {found, integer(now_ms())}
