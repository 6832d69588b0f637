package memory

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/qdrant/go-client/qdrant"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// qdrantStore keeps entries as points of a collection of Qdrant, which it makes for vectors of the length of the first.
type qdrantStore struct {
	config VectorConfig
	embed  EmbeddingConfig
	client *qdrant.Client
	now    func() time.Time

	mu   sync.Mutex
	size uint64 // of the collection's vectors, 0 while it is not known to be there
}

const qdrantPort = 6334

func (c VectorConfig) qdrantConfig() (*qdrant.Config, error) {
	endpoint := c.Endpoint
	if !strings.Contains(endpoint, "://") {
		endpoint = "http://" + endpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.User != nil {
		return nil, errors.New("the endpoint of qdrant must be an address of its gRPC port such as http://host:6334, or https:// for TLS")
	}
	host, port := u.Hostname(), qdrantPort
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if text := u.Port(); text != "" {
		if port, err = strconv.Atoi(text); err != nil || port < 1 || port > 65535 {
			return nil, fmt.Errorf("the port %s in the endpoint of qdrant is none", text)
		}
	}
	return &qdrant.Config{
		Host: host, Port: port, UseTLS: u.Scheme == "https", PoolSize: 1, KeepAliveTime: 60, SkipCompatibilityCheck: true,
		GrpcOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(c.authorise)},
	}, nil
}

// authorise sends the API key. The client would do so too, and write a line of its own to the log.
func (c VectorConfig) authorise(
	ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
) error {
	if c.Secret != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "api-key", c.Secret)
	}
	return invoke(ctx, method, req, reply, conn, opts...)
}

func newQdrant(c Config) (*qdrantStore, error) {
	config, err := c.Vector.qdrantConfig()
	if err != nil {
		return nil, err
	}
	client, err := qdrant.NewClient(config)
	if err != nil {
		return nil, err
	}
	return &qdrantStore{config: c.Vector, embed: c.Embedding, client: client, now: time.Now}, nil
}

func (s *qdrantStore) close() error { return s.client.Close() }

// The payload of a point. Dates are in microseconds since 1970, by the agent's clock: Qdrant has none to ask.
const (
	qdrantID      = "id" // of the entry; that of the point holds the session too
	qdrantSession = "session"
	qdrantSpace   = "space"
	qdrantKind    = "kind"
	qdrantText    = "text"
	qdrantAt      = "at"
	qdrantExpires = "expires" // missing: never
)

// Put stores an entry with its vector, and removes what has expired.
func (s *qdrantStore) Put(ctx context.Context, session string, e Entry) error {
	if err := s.prepare(ctx, uint64(len(e.Vector))); err != nil {
		return err
	}
	now := s.now()
	payload := map[string]any{
		qdrantID: e.ID, qdrantSession: session, qdrantSpace: s.embed.space(e.Vector), qdrantKind: string(e.Kind), qdrantText: e.Text,
		qdrantAt: now.UnixMicro(),
	}
	if s.config.TTL > 0 {
		payload[qdrantExpires] = now.Add(s.config.TTL).UnixMicro()
	}
	values, err := qdrant.TryValueMap(payload)
	if err != nil {
		return fmt.Errorf("encode entry: %w", err)
	}
	_, err = s.client.Upsert(ctx, &qdrant.UpsertPoints{
		CollectionName: s.config.Collection, Wait: new(true),
		Points: []*qdrant.PointStruct{{Id: qdrant.NewID(entryID(session, e.ID)), Vectors: qdrant.NewVectorsDense(e.Vector), Payload: values}},
	})
	if err != nil {
		return s.explain(err)
	}
	return s.expire(ctx, now)
}

func (s *qdrantStore) expire(ctx context.Context, now time.Time) error {
	if s.config.TTL == 0 {
		return nil
	}
	old := qdrant.NewRange(qdrantExpires, &qdrant.Range{Lte: new(float64(now.UnixMicro()))})
	_, err := s.client.Delete(ctx, &qdrant.DeletePoints{
		CollectionName: s.config.Collection, Wait: new(false),
		Points: qdrant.NewPointsSelectorFilter(&qdrant.Filter{Must: []*qdrant.Condition{old}}),
	})
	if err != nil {
		return s.explain(err)
	}
	return nil
}

// Find returns the most similar entries, or the newest. A collection that does not exist holds none.
func (s *qdrantStore) Find(ctx context.Context, session string, like []float32, n int) ([]Entry, error) {
	if err := s.look(ctx); err != nil {
		return nil, err
	}
	size := s.known()
	if size == 0 {
		return nil, nil
	}
	filter := &qdrant.Filter{
		Must:    []*qdrant.Condition{qdrant.NewMatchKeyword(qdrantSession, session)},
		MustNot: []*qdrant.Condition{qdrant.NewRange(qdrantExpires, &qdrant.Range{Lte: new(float64(s.now().UnixMicro()))})},
	}
	query := qdrant.NewQueryOrderBy(&qdrant.OrderBy{Key: qdrantAt, Direction: qdrant.Direction_Desc.Enum()})
	if like != nil {
		if err := s.fits(size, uint64(len(like))); err != nil {
			return nil, err
		}
		filter.Must = append(filter.Must, qdrant.NewMatchKeyword(qdrantSpace, s.embed.space(like)))
		query = qdrant.NewQueryDense(like)
	}
	found, err := s.client.Query(ctx, &qdrant.QueryPoints{
		CollectionName: s.config.Collection, Query: query, Filter: filter,
		Limit: new(uint64(max(n, 1))), WithPayload: qdrant.NewWithPayload(true),
	})
	if err != nil {
		return nil, s.explain(err)
	}
	entries := make([]Entry, len(found))
	for i, p := range found {
		v := p.GetPayload()
		entries[i] = Entry{
			ID: v[qdrantID].GetStringValue(), Kind: Kind(v[qdrantKind].GetStringValue()), Text: v[qdrantText].GetStringValue(),
			At: time.UnixMicro(v[qdrantAt].GetIntegerValue()).UTC(),
		}
	}
	return entries[:min(n, len(entries))], nil
}

func (s *qdrantStore) known() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size
}

func (s *qdrantStore) learn(size uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size = size
}

// look finds out the size of the collection's vectors, if there is a collection.
func (s *qdrantStore) look(ctx context.Context) error {
	if s.known() != 0 {
		return nil
	}
	info, err := s.client.GetCollectionInfo(ctx, s.config.Collection)
	switch {
	case status.Code(errors.Unwrap(err)) == codes.NotFound:
		return nil
	case err != nil:
		return s.explain(err)
	}
	size := info.GetConfig().GetParams().GetVectorsConfig().GetParams().GetSize()
	if size == 0 {
		return fmt.Errorf("the collection %s has no single plain vector: choose another collection", s.config.Collection)
	}
	s.learn(size)
	return nil
}

// prepare makes the collection, once.
func (s *qdrantStore) prepare(ctx context.Context, size uint64) error {
	if err := s.look(ctx); err != nil {
		return err
	}
	if have := s.known(); have != 0 {
		return s.fits(have, size)
	}
	err := s.client.CreateCollection(ctx, &qdrant.CreateCollection{
		CollectionName: s.config.Collection,
		VectorsConfig:  qdrant.NewVectorsConfig(&qdrant.VectorParams{Size: size, Distance: qdrant.Distance_Cosine}),
	})
	if err != nil {
		// Another agent may have been faster.
		if lookErr := s.look(ctx); lookErr != nil || s.known() == 0 {
			return s.explain(err)
		}
	}
	if err := s.index(ctx); err != nil {
		return s.explain(err)
	}
	if have := s.known(); have != 0 {
		return s.fits(have, size)
	}
	s.learn(size)
	return nil
}

// index makes what filters and orders need. It can be repeated.
func (s *qdrantStore) index(ctx context.Context) error {
	for _, i := range []struct {
		field  string
		kind   qdrant.FieldType
		params *qdrant.PayloadIndexParams
	}{
		{qdrantSession, qdrant.FieldType_FieldTypeKeyword, qdrant.NewPayloadIndexParamsKeyword(&qdrant.KeywordIndexParams{IsTenant: new(true)})},
		{qdrantSpace, qdrant.FieldType_FieldTypeKeyword, nil},
		{qdrantAt, qdrant.FieldType_FieldTypeInteger, nil},
		{qdrantExpires, qdrant.FieldType_FieldTypeInteger, nil},
	} {
		_, err := s.client.CreateFieldIndex(ctx, &qdrant.CreateFieldIndexCollection{
			CollectionName: s.config.Collection, Wait: new(true), FieldName: i.field, FieldType: i.kind.Enum(), FieldIndexParams: i.params,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *qdrantStore) fits(have, size uint64) error {
	if have == size {
		return nil
	}
	return fmt.Errorf("the collection %s holds vectors of %d dimensions and the model %s makes %d: choose another collection, or set embedding.dimensions",
		s.config.Collection, have, s.embed.Model, size)
}

// explain has the collection looked for again when it is gone.
func (s *qdrantStore) explain(err error) error {
	switch status.Code(errors.Unwrap(err)) {
	case codes.NotFound:
		s.learn(0)
		return err
	case codes.DeadlineExceeded: // the server's clock may be ahead of the context's
		return context.DeadlineExceeded
	default:
		return err
	}
}
