-- KEYS: value, lease unless it is elsewhere; ARGV: condition, version
local version = redis.call('GETRANGE', KEYS[1], 0, 7)
version = #version == 8 and version
if ARGV[1] == 'version' and version ~= ARGV[2] then
  return {0, version and 1 or 0, version or ''}
end
if not version then
  -- So that all who watch hear of it: they may be loading what is gone. A full server refuses, and what is there goes all the same.
  redis.pcall('SET', KEYS[1], '')
end
redis.call('DEL', unpack(KEYS))
return {1, version and 1 or 0, ''}
