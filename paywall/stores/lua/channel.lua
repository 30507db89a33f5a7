-- The record as it is.
-- KEYS  record, holds
if redis.call('EXISTS', KEYS[1]) == 0 then return {'unknown'} end
return whole('ok', KEYS[1], KEYS[2])
