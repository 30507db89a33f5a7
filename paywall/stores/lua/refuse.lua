-- Remembers that a payment was refused, and its payer told so; or says what was decided meanwhile.
-- KEYS  holds, entry of the payment's id    ARGV  fingerprint
local now = now_ms()
local decided = once(KEYS[2], KEYS[1], ARGV[1], '', now)
if decided then return decided end
keep_entry(KEYS[2], ARGV[1], REFUSED, now, ANSWER_MS)
return {'ok'}
