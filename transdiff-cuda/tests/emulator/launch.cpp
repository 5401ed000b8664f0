#include "launch.h"

#include "block.h"

namespace simt {

bool run(const Launch& launch, std::string& error) {
    const Index grid = launch.grid;
    std::vector<unsigned> blocks(size_t{grid.x} * grid.y * grid.z);
    for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<unsigned>(i);
    Order order;
    order.begin();
    order.arrange(blocks);

    Block& executor = Block::mine();
    executor.begin(launch);
    for (unsigned block : blocks) {
        if (!executor.run({block % grid.x, block / grid.x % grid.y, block / grid.x / grid.y}, error)) return false;
    }
    return true;
}

size_t written_static_shared() { return Block::mine().written_static_shared(); }

}  // namespace simt
