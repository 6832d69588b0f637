package memory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// redisStore keeps each session in two keys of one hash slot: a sorted set of entry ids by the server's time in
// microseconds, and a hash with their contents. Both expire a ttl after the last entry.
type redisStore struct {
	client *redis.Client
	ttl    time.Duration
	most   int
	put    *redis.Script
	find   *redis.Script
}

func (c Config) redisOptions() (*redis.Options, error) {
	if c.Redis.URL == "" {
		return nil, errors.New("redis needs an address: set REDIS_URL, such as redis://host:6379/0")
	}
	o, err := redis.ParseURL(c.Redis.URL)
	if err != nil { // it may quote the password
		return nil, errors.New("the address of redis (REDIS_URL) does not parse: want redis://[user:password@]host[:6379][/database], or rediss:// for TLS")
	}
	o.ClientName = "ark"
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout, o.PoolTimeout = c.Timeout, c.Timeout, c.Timeout, c.Timeout
	o.ContextTimeoutEnabled = true
	o.DialerRetries, o.MaxRetries = 1, 1 // both scripts can be repeated
	o.PoolSize, o.MinIdleConns = 8, 0
	o.DisableIdentity = true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return o, nil
}

func newRedis(c Config) (*redisStore, error) {
	o, err := c.redisOptions()
	if err != nil {
		return nil, err
	}
	// The client tells its errors to whoever calls it, and writes each of them to stderr besides.
	logging.Disable()
	return &redisStore{
		client: redis.NewClient(o), ttl: c.Redis.TTL, most: c.Redis.MaxEntries,
		put: redis.NewScript(putScript), find: redis.NewScript(findScript),
	}, nil
}

func (s *redisStore) close() error { return s.client.Close() }

// putScript stores an entry and drops what is too old or too much. The same entry once more changes nothing.
const putScript = `
local order, entries, id, entry = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local ttl, most = tonumber(ARGV[3]), tonumber(ARGV[4])
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local function drop(ids)
  for _, old in ipairs(ids) do
    redis.call('ZREM', order, old)
    redis.call('HDEL', entries, old)
  end
end
if ttl > 0 then
  drop(redis.call('ZRANGEBYSCORE', order, '-inf', string.format('%.0f', now - ttl)))
end
if redis.call('HGET', entries, id) ~= entry or not redis.call('ZSCORE', order, id) then
  local newest = redis.call('ZREVRANGE', order, 0, 0, 'WITHSCORES')
  if newest[2] and tonumber(newest[2]) >= now then
    now = tonumber(newest[2]) + 1
  end
  redis.call('ZADD', order, string.format('%.0f', now), id)
  redis.call('HSET', entries, id, entry)
end
if most > 0 then
  local over = redis.call('ZCARD', order) - most
  if over > 0 then
    drop(redis.call('ZRANGE', order, 0, over - 1))
  end
end
for _, key in ipairs(KEYS) do
  if ttl > 0 then
    redis.call('PEXPIRE', key, string.format('%.0f', math.ceil(ttl / 1000)))
  else
    redis.call('PERSIST', key)
  end
end
return 1`

// findScript returns id, score and content of the newest entries, one after the other.
const findScript = `
local ttl, count = tonumber(ARGV[1]), tonumber(ARGV[2])
local oldest = '-inf'
if ttl > 0 then
  local clock = redis.call('TIME')
  oldest = '(' .. string.format('%.0f', clock[1] * 1000000 + clock[2] - ttl)
end
local found, out = redis.call('ZREVRANGEBYSCORE', KEYS[1], '+inf', oldest, 'WITHSCORES', 'LIMIT', 0, count), {}
for i = 1, #found, 2 do
  local entry = redis.call('HGET', KEYS[2], found[i])
  if entry then
    out[#out + 1] = found[i]
    out[#out + 1] = found[i + 1]
    out[#out + 1] = entry
  end
end
return out`

// redisEntry is what stands in the hash.
type redisEntry struct {
	Kind Kind   `json:"kind"`
	Text string `json:"text"`
}

// keys of a session. The braces keep both on one node of a cluster.
func (s *redisStore) keys(session string) []string {
	return []string{"ark:memory:{" + session + "}:order", "ark:memory:{" + session + "}:entries"}
}

// Put stores an entry.
func (s *redisStore) Put(ctx context.Context, session string, e Entry) error {
	content, err := json.Marshal(redisEntry{e.Kind, e.Text})
	if err != nil {
		return fmt.Errorf("encode entry: %w", err)
	}
	return s.put.Run(ctx, s.client, s.keys(session), e.ID, content, s.ttl.Microseconds(), s.most).Err()
}

// Find returns the newest entries.
func (s *redisStore) Find(ctx context.Context, session string, _ []float32, n int) ([]Entry, error) {
	if s.most > 0 {
		n = min(n, s.most)
	}
	found, err := s.find.Run(ctx, s.client, s.keys(session), s.ttl.Microseconds(), n).StringSlice()
	if err != nil {
		return nil, err
	}
	var entries []Entry
	for i := 0; i+2 < len(found); i += 3 {
		score, err := strconv.ParseFloat(found[i+1], 64)
		if err != nil || math.IsNaN(score) {
			return nil, fmt.Errorf("entry %s has no date", found[i])
		}
		var content redisEntry
		if err := json.Unmarshal([]byte(found[i+2]), &content); err != nil {
			return nil, fmt.Errorf("entry %s cannot be read: %w", found[i], err)
		}
		entries = append(entries, Entry{ID: found[i], Kind: content.Kind, Text: content.Text, At: time.UnixMicro(int64(score)).UTC()})
	}
	return entries, nil
}
