-- The record as it is.
-- KEYS  record, holds
local r = load(KEYS[1])
if not r then return {'unknown'} end
return whole('ok', r, KEYS[2])
