-- What a Valkey or Redis server does for the vault, each in one step and with one key. Python puts the
-- library's name in front, and that of this text's digest into VERSION: what differs stands beside the old.
--
-- A tree is a hash. Of every record it has, with the record's id behind one letter:
--   u  the record that must be read before it, or nothing: it is there as long as the record is
--   p  its path                     r  its response, if it has one
--   n  how many records continue it s  whether a conversation stands on it
--   x  that it was deleted, and by which request: this mark outlives the record
-- and of the tree #c, the records, and #b, the bytes of their paths and responses.
-- A cell is a hash: r its revision, d its data, w the request that wrote it. Revision 0 is none.
-- What is said again on another connection must write something: only then does WAIT mean it.

local function number(key, field)
  return tonumber(redis.call('HGET', key, field)) or 0
end

local function has(tree, field)
  return redis.call('HEXISTS', tree, field) == 1
end

-- Redis 7 would be told "-0", which it takes for no number.
local function count(key, field, more)
  redis.call('HINCRBY', key, field, string.format('%d', more))
end

local function grow(tree, records, bytes)
  count(tree, '#c', records)
  count(tree, '#b', bytes)
end

local function length(tree, field)
  return redis.call('HSTRLEN', tree, field)
end

local function add(tree, record)
  redis.call('HSET', tree, 'u' .. record.id, record.parent, 'p' .. record.id, record.path)
  if record.response ~= '' then redis.call('HSET', tree, 'r' .. record.id, record.response) end
  if record.pinned == '1' then redis.call('HSET', tree, 's' .. record.id, '1') end
  if record.parent ~= '' then count(tree, 'n' .. record.parent, 1) end
  grow(tree, 1, #record.path + #record.response)
end

-- Take a record out, and return what it continued. How many continue it is not forgotten.
local function take(tree, id)
  local parent = redis.call('HGET', tree, 'u' .. id)
  grow(tree, -1, -length(tree, 'p' .. id) - length(tree, 'r' .. id))
  redis.call('HDEL', tree, 'u' .. id, 'p' .. id, 'r' .. id, 's' .. id)
  if parent ~= '' then count(tree, 'n' .. parent, -1) end
  return parent
end

local function needed(tree, id)
  return not has(tree, 'x' .. id) or number(tree, 'n' .. id) > 0 or has(tree, 's' .. id)
end

-- Take a deleted record out if nothing needs it, and those before it that were kept only for its sake.
local function erase(tree, id)
  while id ~= '' and has(tree, 'u' .. id) and not needed(tree, id) do
    local parent = take(tree, id)
    redis.call('HDEL', tree, 'n' .. id)
    id = parent
  end
end

local function sized(tree, what)
  return {what, number(tree, '#c'), number(tree, '#b')}
end

local function record_of(args)
  return {id = args[2], parent = args[3], path = args[4], response = args[5], pinned = args[6]}
end

local function put(keys, args)
  local tree, record, what = keys[1], record_of(args), 'same'
  if has(tree, 'x' .. record.id) then
    what = 'deleted'
  elseif not has(tree, 'u' .. record.id) then
    if record.parent ~= '' and not has(tree, 'u' .. record.parent) then return {'orphan', 0, 0} end
    add(tree, record)
    what = 'new'
  end
  redis.call('PEXPIRE', tree, args[1])
  return sized(tree, what)
end

local function amend(keys, args)
  local tree, record = keys[1], record_of(args)
  if not has(tree, 'x' .. record.id) then
    local before = has(tree, 'u' .. record.id) and take(tree, record.id) or ''
    add(tree, record)
    erase(tree, before)
  end
  redis.call('PEXPIRE', tree, args[1])
  return sized(tree, 'new')
end

local function found(tree, id)
  return has(tree, 'u' .. id) and not has(tree, 'x' .. id)
end

local function hydrate(keys, args)
  local tree, at = keys[1], args[2]
  local most_records, most_bytes = tonumber(args[3]), tonumber(args[4])
  local held, steps, records, bytes = {}, {}, 0, 0
  for i = 5, #args do held[args[i]] = true end
  if not found(tree, at) then return false end
  repeat
    local step = redis.call('HMGET', tree, 'u' .. at, 'p' .. at)
    if not step[1] or not step[2] then return false end
    records, bytes = records + 1, bytes + #step[2]
    if records > most_records or bytes > most_bytes then return false end
    steps[3 * records - 2], steps[3 * records - 1], steps[3 * records] = at, step[1], step[2]
    at = step[1]
  until at == '' or held[at]
  redis.call('PEXPIRE', tree, args[1])
  return {number(tree, '#c'), number(tree, '#b'), steps}
end

local function get(keys, args)
  local tree, id = keys[1], args[2]
  if not found(tree, id) then return false end
  redis.call('PEXPIRE', tree, args[1])
  return redis.call('HMGET', tree, 'u' .. id, 'p' .. id, 'r' .. id, 's' .. id)
end

-- Return whether it was there, and how many bytes that made free.
local function delete(keys, args)
  local tree, id, request = keys[1], args[1], args[2]
  local by = redis.call('HGET', tree, 'x' .. id)
  if by and by ~= request or not by and not has(tree, 'u' .. id) then return {0, 0} end
  local before = number(tree, '#b')
  redis.call('HSET', tree, 'x' .. id, request)
  if has(tree, 'u' .. id) then
    grow(tree, 0, -length(tree, 'r' .. id))
    redis.call('HDEL', tree, 'r' .. id)
    erase(tree, id)
  end
  return {1, before - number(tree, '#b')}
end

local function read(keys)
  if number(keys[1], 'r') == 0 then return false end
  return redis.call('HMGET', keys[1], 'r', 'd')
end

local function write(keys, args)
  local cell, request, revision = keys[1], args[2], tonumber(args[3])
  if redis.call('HGET', cell, 'w') ~= request and number(cell, 'r') ~= revision - 1 then
    return 0
  end
  redis.call('HSET', cell, 'r', revision, 'd', args[4], 'w', request)
  redis.call('PEXPIRE', cell, args[1])
  return 1
end

local function drop(keys, args)
  local cell, request = keys[1], args[2]
  if redis.call('HGET', cell, 'w') ~= request and number(cell, 'r') == 0 then return 0 end
  redis.call('HSET', cell, 'r', 0, 'd', '', 'w', request)
  redis.call('PEXPIRE', cell, args[1])
  return 1
end

-- What a tenant put lately is a hash: when, in stretches of time that Python numbers, and how many bytes.
local function lately(quota, oldest)
  local kept, all = {}, redis.call('HGETALL', quota)
  for i = 1, #all, 2 do
    local when, bytes = tonumber(all[i]), tonumber(all[i + 1])
    if when < oldest or bytes <= 0 then
      redis.call('HDEL', quota, all[i])
    else
      kept[#kept + 1] = {when = when, bytes = bytes}
    end
  end
  table.sort(kept, function(a, b) return a.when < b.when end)
  return kept
end

local function reserve(keys, args)
  local bytes, sum = tonumber(args[4]), 0
  for _, part in ipairs(lately(keys[1], tonumber(args[3]))) do sum = sum + part.bytes end
  if sum + bytes > tonumber(args[5]) then return 0 end
  count(keys[1], args[2], bytes)
  redis.call('PEXPIRE', keys[1], args[1])
  return 1
end

-- Give bytes back: the oldest first, so that a tenant never has more than it may.
local function release(keys, args)
  local left = tonumber(args[2])
  for _, part in ipairs(lately(keys[1], tonumber(args[1]))) do
    local some = math.min(left, part.bytes)
    count(keys[1], part.when, -some)
    left = left - some
  end
  return left
end

local function offer(name, callback, flags)
  redis.register_function({function_name = name .. '_' .. VERSION, callback = callback, flags = flags})
end

-- What does not need more memory is done when there is none.
offer('rs_put', put, {})
offer('rs_amend', amend, {})
offer('rs_hydrate', hydrate, {'allow-oom'})
offer('rs_get', get, {'allow-oom'})
offer('rs_delete', delete, {'allow-oom'})
offer('rs_read', read, {'no-writes'})
offer('rs_write', write, {})
offer('rs_drop', drop, {'allow-oom'})
offer('rs_reserve', reserve, {})
offer('rs_release', release, {'allow-oom'})
