package memory

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/qdrant/go-client/qdrant"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const qdrantSecret = "qdrant-key-of-the-tests"

// qdrantServer speaks as much of Qdrant's protocol as a memory needs, and refuses what Qdrant refuses: another key, a
// collection that is not there or there already, vectors of another length, an order by a field without an index.
type qdrantServer struct {
	mu          sync.Mutex
	collections map[string]*qdrantCollection
	calls       []string
	hang        bool // until the client goes
}

// qdrantCollections and qdrantPoints are its two services.
type (
	qdrantCollections struct {
		qdrant.UnimplementedCollectionsServer
		*qdrantServer
	}
	qdrantPoints struct {
		qdrant.UnimplementedPointsServer
		*qdrantServer
	}
)

type qdrantCollection struct {
	size    uint64
	indexes map[string]qdrant.FieldType
	points  map[string]*qdrant.PointStruct
}

func startQdrant(t *testing.T) (*qdrantServer, string) {
	t.Helper()
	s := &qdrantServer{collections: map[string]*qdrantCollection{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	g := grpc.NewServer(grpc.UnaryInterceptor(s.intercept), grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
		MinTime: time.Second, PermitWithoutStream: true,
	}))
	qdrant.RegisterCollectionsServer(g, qdrantCollections{qdrantServer: s})
	qdrant.RegisterPointsServer(g, qdrantPoints{qdrantServer: s})
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		require.NoError(t, <-served)
	})
	return s, "http://" + l.Addr().String()
}

func (s *qdrantServer) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if key := md.Get("api-key"); len(key) != 1 || key[0] != qdrantSecret {
		return nil, status.Errorf(codes.Unauthenticated, "Invalid API key or JWT: %v", key)
	}
	s.mu.Lock()
	s.calls = append(s.calls, info.FullMethod)
	hang := s.hang
	s.mu.Unlock()
	if hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return handler(ctx, req)
}

func (s *qdrantServer) collection(name string) (*qdrantCollection, error) {
	if c := s.collections[name]; c != nil {
		return c, nil
	}
	return nil, status.Errorf(codes.NotFound, "Not found: Collection `%s` doesn't exist!", name)
}

func (s qdrantCollections) Get(_ context.Context, r *qdrant.GetCollectionInfoRequest) (*qdrant.GetCollectionInfoResponse, error) {
	c, err := s.collection(r.GetCollectionName())
	if err != nil {
		return nil, err
	}
	return &qdrant.GetCollectionInfoResponse{Result: &qdrant.CollectionInfo{Config: &qdrant.CollectionConfig{Params: &qdrant.CollectionParams{
		VectorsConfig: qdrant.NewVectorsConfig(&qdrant.VectorParams{Size: c.size, Distance: qdrant.Distance_Cosine}),
	}}}}, nil
}

func (s qdrantCollections) Create(_ context.Context, r *qdrant.CreateCollection) (*qdrant.CollectionOperationResponse, error) {
	name, params := r.GetCollectionName(), r.GetVectorsConfig().GetParams()
	switch {
	case s.collections[name] != nil:
		return nil, status.Errorf(codes.AlreadyExists, "Wrong input: Collection `%s` already exists!", name)
	case params.GetDistance() != qdrant.Distance_Cosine || params.GetSize() == 0:
		return nil, status.Error(codes.InvalidArgument, "Wrong input: vectors")
	}
	s.collections[name] = &qdrantCollection{
		size: params.GetSize(), indexes: map[string]qdrant.FieldType{}, points: map[string]*qdrant.PointStruct{},
	}
	return &qdrant.CollectionOperationResponse{Result: true}, nil
}

func (s qdrantPoints) CreateFieldIndex(_ context.Context, r *qdrant.CreateFieldIndexCollection) (*qdrant.PointsOperationResponse, error) {
	c, err := s.collection(r.GetCollectionName())
	if err == nil {
		c.indexes[r.GetFieldName()] = r.GetFieldType()
	}
	return &qdrant.PointsOperationResponse{}, err
}

func (s qdrantPoints) Upsert(_ context.Context, r *qdrant.UpsertPoints) (*qdrant.PointsOperationResponse, error) {
	c, err := s.collection(r.GetCollectionName())
	if err != nil {
		return nil, err
	}
	for _, p := range r.GetPoints() {
		if n := len(denseOf(p)); uint64(n) != c.size {
			return nil, status.Errorf(codes.InvalidArgument, "Wrong input: Vector dimension error: expected dim: %d, got %d", c.size, n)
		}
		c.points[p.GetId().GetUuid()] = p
	}
	return &qdrant.PointsOperationResponse{}, nil
}

func denseOf(p *qdrant.PointStruct) []float32 { return p.GetVectors().GetVector().GetDense().GetData() }

func (s qdrantPoints) Delete(_ context.Context, r *qdrant.DeletePoints) (*qdrant.PointsOperationResponse, error) {
	c, err := s.collection(r.GetCollectionName())
	if err != nil {
		return nil, err
	}
	for id, p := range c.points {
		if c.fits(p, r.GetPoints().GetFilter()) {
			delete(c.points, id)
		}
	}
	return &qdrant.PointsOperationResponse{}, nil
}

func (s qdrantPoints) Query(_ context.Context, r *qdrant.QueryPoints) (*qdrant.QueryResponse, error) {
	c, err := s.collection(r.GetCollectionName())
	if err != nil {
		return nil, err
	}
	var found []*qdrant.ScoredPoint
	like := r.GetQuery().GetNearest().GetDense().GetData()
	order := r.GetQuery().GetOrderBy()
	switch {
	case like == nil && order == nil:
		return nil, status.Error(codes.Unimplemented, "this query")
	case like != nil && uint64(len(like)) != c.size:
		return nil, status.Errorf(codes.InvalidArgument, "Wrong input: Vector dimension error: expected dim: %d, got %d", c.size, len(like))
	case order != nil && (c.indexes[order.GetKey()] != qdrant.FieldType_FieldTypeInteger || order.GetDirection() != qdrant.Direction_Desc):
		return nil, status.Errorf(codes.InvalidArgument, "Wrong input: No range index for `order_by` key: `%s`", order.GetKey())
	}
	for _, p := range c.points {
		if !c.fits(p, r.GetFilter()) {
			continue
		}
		score := float64(p.GetPayload()[order.GetKey()].GetIntegerValue())
		if like != nil {
			score = similarity(like, denseOf(p))
		}
		point := &qdrant.ScoredPoint{Id: p.GetId(), Score: float32(score), OrderValue: &qdrant.OrderValue{Variant: &qdrant.OrderValue_Float{Float: score}}}
		if r.GetWithPayload().GetEnable() {
			point.Payload = p.GetPayload()
		}
		found = append(found, point)
	}
	slices.SortFunc(found, func(a, b *qdrant.ScoredPoint) int {
		return cmp.Compare(b.GetOrderValue().GetFloat(), a.GetOrderValue().GetFloat())
	})
	return &qdrant.QueryResponse{Result: found[:min(len(found), int(r.GetLimit()))]}, nil
}

func similarity(a, b []float32) float64 {
	var sum, as, bs float64
	for i := range a {
		sum += float64(a[i]) * float64(b[i])
		as += float64(a[i]) * float64(a[i])
		bs += float64(b[i]) * float64(b[i])
	}
	return sum / math.Sqrt(as*bs)
}

func (c *qdrantCollection) fits(p *qdrant.PointStruct, f *qdrant.Filter) bool {
	for _, condition := range f.GetMust() {
		if !c.meets(p, condition) {
			return false
		}
	}
	for _, condition := range f.GetMustNot() {
		if c.meets(p, condition) {
			return false
		}
	}
	if len(f.GetShould())+len(f.GetMust())+len(f.GetMustNot()) == 0 {
		panic("a filter that takes everything")
	}
	return true
}

func (c *qdrantCollection) meets(p *qdrant.PointStruct, condition *qdrant.Condition) bool {
	field := condition.GetField()
	value, there := p.GetPayload()[field.GetKey()]
	switch {
	case field.GetMatch() != nil:
		return there && value.GetStringValue() == field.GetMatch().GetKeyword()
	case field.GetRange() != nil && field.GetRange().Lte != nil:
		return there && float64(value.GetIntegerValue()) <= field.GetRange().GetLte()
	default:
		panic(fmt.Sprintf("a condition that this server does not know: %v", condition))
	}
}

func qdrantOn(endpoint string) Config {
	return Config{
		Backend:   VectorStore,
		Vector:    VectorConfig{Provider: Qdrant, Endpoint: endpoint, Secret: qdrantSecret},
		Embedding: EmbeddingConfig{Model: "mock"},
	}.withDefaults()
}

func openQdrant(t *testing.T, c Config) *qdrantStore {
	t.Helper()
	s, err := newQdrant(c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.close()) })
	return s
}

func TestQdrantMakesItsCollectionOnce(t *testing.T) {
	t.Parallel()
	server, endpoint := startQdrant(t)
	s := openQdrant(t, qdrantOn(endpoint))
	found, err := s.Find(t.Context(), "a", nil, 5)
	require.NoError(t, err)
	require.Empty(t, found, "no collection is no memory yet")
	for _, id := range []string{"one", "two"} {
		require.NoError(t, s.Put(t.Context(), "a", vectorEntry(id)))
	}
	require.Equal(t, []string{
		"/qdrant.Collections/Get",
		"/qdrant.Collections/Get", "/qdrant.Collections/Create",
		"/qdrant.Points/CreateFieldIndex", "/qdrant.Points/CreateFieldIndex", "/qdrant.Points/CreateFieldIndex", "/qdrant.Points/CreateFieldIndex",
		"/qdrant.Points/Upsert", "/qdrant.Points/Upsert",
	}, server.calls)
	require.Contains(t, server.collections, DefaultCollection)
	require.Equal(t, uint64(64), server.collections[DefaultCollection].size)

	// Somebody removes it: the next use fails, the one after that makes it again.
	server.mu.Lock()
	server.collections = map[string]*qdrantCollection{}
	server.mu.Unlock()
	require.Error(t, s.Put(t.Context(), "a", vectorEntry("three")))
	require.NoError(t, s.Put(t.Context(), "a", vectorEntry("three")))
}

func TestQdrantSaysWhenVectorsDoNotFit(t *testing.T) {
	t.Parallel()
	server, endpoint := startQdrant(t)
	server.collections[DefaultCollection] = &qdrantCollection{size: 3, indexes: map[string]qdrant.FieldType{}, points: map[string]*qdrant.PointStruct{}}
	s := openQdrant(t, qdrantOn(endpoint))
	want := "the collection agent-memories holds vectors of 3 dimensions and the model mock makes 64: choose another collection, or set embedding.dimensions"
	require.EqualError(t, s.Put(t.Context(), "a", vectorEntry("one")), want)
	_, err := s.Find(t.Context(), "a", vectorEntry("one").Vector, 1)
	require.EqualError(t, err, want)
}

func TestQdrantForgetsByTheDateOfAnEntry(t *testing.T) {
	t.Parallel()
	server, endpoint := startQdrant(t)
	c := qdrantOn(endpoint)
	c.Vector.TTL = time.Hour
	s := openQdrant(t, c)
	now := time.Now()
	s.now = func() time.Time { return now }
	require.NoError(t, s.Put(t.Context(), "a", vectorEntry("one")))
	now = now.Add(time.Hour - time.Microsecond)
	require.Equal(t, []string{"one"}, texts(t, s, "a", nil, 5))
	now = now.Add(time.Microsecond)
	require.Empty(t, texts(t, s, "a", nil, 5))
	require.Empty(t, texts(t, s, "a", vectorEntry("one").Vector, 5))
	require.NoError(t, s.Put(t.Context(), "b", vectorEntry("two")))
	require.Len(t, server.collections[DefaultCollection].points, 1, "what has expired is removed")
}
