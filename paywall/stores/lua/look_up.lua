-- What was decided under a payment's id: an answer, or 'ok' when the payment may go on.
-- KEYS  holds, entry of the payment's id    ARGV  fingerprint
local answer, outlived = once(KEYS[2], KEYS[1], ARGV[1], '', now_ms())
if answer then return answer end
if outlived then redis.call('DEL', KEYS[2]) end
return {'ok'}
