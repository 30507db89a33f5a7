-- Remembers that a payment was refused, and its payer told so; or says what was decided meanwhile.
-- KEYS  record, holds, entry of the payment's id    ARGV  fingerprint
local now = now_ms()
local decided = once(KEYS[3], ARGV[1], '', now, KEYS[1], KEYS[2])
if decided then return decided end
keep_entry(KEYS[3], ARGV[1], REFUSED, now, ANSWER_MS)
return {'ok'}
