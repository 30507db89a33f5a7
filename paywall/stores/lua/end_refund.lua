-- A refund was given up: what was set aside for it is the payer's to promise again.
-- KEYS  record
redis.call('HDEL', KEYS[1], 'ra', 'rx', 'rq')
return {'ok'}
