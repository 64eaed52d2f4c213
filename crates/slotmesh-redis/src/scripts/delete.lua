-- KEYS: value, lease unless it is elsewhere; ARGV: condition, version
local old = redis.call('GET', KEYS[1])
local version = old and #old >= 8 and string.sub(old, 1, 8)
if ARGV[1] == 'version' and version ~= ARGV[2] then
  return {0, version and 1 or 0, version or ''}
end
if not old then
  -- So that all who watch hear of it: they may be loading what is gone. A full server refuses, and what is there goes all the same.
  redis.pcall('SET', KEYS[1], '')
end
redis.call('DEL', unpack(KEYS))
return {1, version and 1 or 0, ''}
